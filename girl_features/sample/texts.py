"""CVs and JDs of the sample market, as text: hidden states in, everyday and employers' English out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from girl_features.sample.market import CITIES, REMOTE, SPECIALISMS, Jobs, Versions
from girl_features.sample.words import TRADES, Skill

# the four rungs of the ladder, in each side's words
CV_RUNGS = (
    ("still finding my feet", "new to this and keen"),
    ("settled and trusted with most things", "no longer the new one"),
    ("an old hand whom others ask", "seasoned, left to decide by myself"),
    ("in charge of everybody there", "the boss of the whole place"),
)
JD_RUNGS = ("Junior", "Experienced", "Senior", "Lead")
JD_RUNG_NEEDS = (
    (
        "An entry position: no track record required, a mentor is assigned.",
        "Suits a junior candidate; structured support is provided.",
    ),
    (
        "At least three years of relevant experience required.",
        "We expect an experienced candidate with proven routine.",
    ),
    (
        "Senior expertise and independent judgement are essential.",
        "A senior position with considerable autonomy.",
    ),
    (
        "Leadership of the department, its budget and direct reports.",
        "As lead you are accountable for people and results.",
    ),
)

CV_MOVE = (
    ("I want to stay near home.", "Cannot leave town, my family is here."),
    ("Happy to move anywhere.", "I would pack my bags for good work."),
)
CV_LIFE = (
    "I sleep little and laugh a lot.",
    "At weekends I row and mend old clocks.",
    "Two kids, a dog and a bicycle.",
    "I like early starts and strong tea.",
    "People say I stay calm when it gets loud.",
    "I sing in a choir on Tuesdays.",
    "My mates would call me stubborn but fair.",
    "I grow tomatoes on the balcony.",
    "I learn fast and forget nothing.",
    "I hate being late.",
    "Football on Sundays, books at night.",
    "I can start after a month.",
    "My handwriting is awful, my memory is not.",
)
CV_BEFORE = (
    "Before that odd jobs: bar work, a paper round, a summer of fruit picking.",
    "Left college early and never looked back.",
    "Before that I was abroad for a while, doing this and that.",
    "Did a short course at night to get here.",
    "Got in through an uncle and worked my way up.",
    "Before that, years at home with the little ones.",
    "A neighbour told me about the place and I stayed.",
)
CV_ONCE = ("Once lent a hand with {}.", "For a few weeks I also tried {}.")

JD_EMPLOYER = (
    "We are an ambitious {} in {}.",
    "Our client, a growing {}, is hiring in {}.",
    "Join an established {} located in {}.",
    "This {} in {} is expanding its organisation.",
)
JD_REMOTE_EMPLOYER = (
    "We are an ambitious {}, working fully remote.",
    "Our client, a growing {}, is hiring remote staff.",
    "Join an established {} with a remote workforce.",
    "This {} is expanding its remote organisation.",
)
JD_SITES = (
    ("Place of work: {}, on site.", "You are based at our {} premises."),
    ("Place of work: anywhere, from home.", "You are based wherever you live."),
)
JD_DUTIES = ("You will {}.", "Key responsibilities: {}.", "In this role you {}.", "Your mission: {}.")
JD_PLUS = ("Desirable: ability to {}.", "It is an advantage if you can also {}.")
JD_OFFER = (
    "We offer a competitive salary, pension and private insurance.",
    "Benefits include flexible hours and a bonus scheme.",
    "An equal opportunity employer committed to diversity.",
    "Attractive remuneration and twenty-eight days of annual leave.",
    "Permanent contract, full time, with a six-month probation.",
    "You enjoy a collaborative culture and continuous improvement.",
    "Career progression and professional certification are supported.",
    "Please apply with your documents and salary expectations.",
    "Values: integrity, inclusion, excellence and sustainability.",
    "Modern equipment and a subsidised canteen await you.",
    "Background verification is part of the recruitment procedure.",
)

CV_LAYOUTS = (
    "I am a {title} from {town}, {time} {place}, {standing}. My days: {listed}. {before} {life} {move}",
    "WORK\n{title}, {place}, {time}\n{bullets}\nSo far: {standing}.\nEARLIER\n{before}\nHOME\n{town}. {move}\n"
    "ME\n{life}",
    "{title} | {town} | {time}\n{life}\nWhere: {place}, {standing}.\nWhat I do well: {listed}.\n{move}\n{before}",
    "Living in {town}. {move} {before} Now {time} {place} as a {title}, {standing}. I am good at {listed}. {life}",
)
JD_LAYOUTS = (
    "{title}\n{employer} {duties} {needs} {offer} {site}",
    "{title}\n{employer}\nResponsibilities:\n{bullets}\nProfile: {needs}\n{offer}\n{site}",
    "{title}\n{offer}\n{duties}\n{needs}\n{employer} {site}",
)

N_DRAWS = 24  # random numbers one text may use
_N_TRADE_SKILLS = 6
_ALL_SKILLS: tuple[Skill, ...] = tuple(skill for s in SPECIALISMS for skill in s.skills)


def cv_texts(versions: Versions, styles: np.ndarray) -> list[str]:
    """The CV of each of v versions.

    Args:
        versions: what the CVs say.
        styles: (m, N_DRAWS) non-negative integers, one row a seeker of the block: the layout and the wording of
            all of a seeker's CVs, so that a new version changes where the seeker changed.
    """
    states = (column.tolist() for column in (versions.seeker, versions.years, *versions.people))
    rows = styles.tolist()
    return [_cv(iter(rows[seeker]), *state) for seeker, *state in zip(*states, strict=True)]


def jd_texts(jobs: Jobs, styles: np.ndarray) -> list[str]:
    """The JD of each of m jobs, worded by the rows of `styles`, (m, N_DRAWS) non-negative integers."""
    states = zip(styles.tolist(), *(column.tolist() for column in jobs), strict=True)
    return [_jd(iter(style), *state) for style, *state in states]


def _cv(draws: Iterator[int], years: int, specialism: int, rung: int, city: int, can_move: bool, skills: int) -> str:
    layout = _pick(CV_LAYOUTS, draws)
    trade = TRADES[specialism // 2]
    said: list[str] = []
    for skill, draw in _worded(specialism, skills, draws):
        both, one = draw % 3 == 0, skill.cv[draw // 3 % 2]
        said += skill.cv if both else [one]
    before = _several(CV_BEFORE, 2, draws)
    is_distracted, once, stray = next(draws) % 10 < 3, _pick(CV_ONCE, draws), _stray_skill(specialism, draws)
    if is_distracted:
        before += " " + once.format(stray.cv[0])
    return layout.format(
        title=_pick(SPECIALISMS[specialism].cv_titles, draws),
        town=CITIES[city],
        time="under a year" if years == 0 else "one year" if years == 1 else f"{years} years",
        place=_pick(trade.cv_workplaces, draws),
        standing=_pick(CV_RUNGS[rung], draws),
        listed=_and(said),
        bullets="\n".join(f"- {phrase}" for phrase in said),
        before=before,
        life=_several(CV_LIFE, 3, draws),
        move=_pick(CV_MOVE[can_move], draws),
    )


def _jd(draws: Iterator[int], specialism: int, rung: int, city: int, skills: int) -> str:
    layout = _pick(JD_LAYOUTS, draws)
    is_remote = city == REMOTE
    town = "remote" if is_remote else CITIES[city]
    workplace = _pick(TRADES[specialism // 2].jd_workplaces, draws)
    named: list[str] = []
    for skill, draw in _worded(specialism, skills, draws):
        named += skill.jd if draw % 2 == 0 else skill.jd[::-1]
    needs = _pick(JD_RUNG_NEEDS[rung], draws)
    is_distracted, plus, stray = next(draws) % 4 == 0, _pick(JD_PLUS, draws), _stray_skill(specialism, draws)
    if is_distracted:
        needs += " " + plus.format(stray.jd[0])
    return layout.format(
        title=f"{JD_RUNGS[rung]} {_pick(SPECIALISMS[specialism].jd_titles, draws)}, {town}",
        employer=_pick(JD_REMOTE_EMPLOYER if is_remote else JD_EMPLOYER, draws).format(workplace, town),
        duties=_pick(JD_DUTIES, draws).format(_and(named)),
        bullets="\n".join(f"- {phrase}" for phrase in named),
        needs=needs,
        offer=_several(JD_OFFER, 3, draws),
        site=_pick(JD_SITES[is_remote], draws).format(town),
    )


def _pick(options: tuple[str, ...], draws: Iterator[int]) -> str:
    return options[next(draws) % len(options)]


def _several(options: tuple[str, ...], n: int, draws: Iterator[int]) -> str:
    """n different options: every so-many-th from some first on; as many options as a prime, so none repeats."""
    first, step = next(draws), 1 + next(draws) % (len(options) - 1)
    return " ".join(options[(first + k * step) % len(options)] for k in range(n))


def _worded(specialism: int, mask: int, draws: Iterator[int]) -> list[tuple[Skill, int]]:
    """Skills of a mask (bits 0-2 of the specialism, 3-5 of the trade's other one), each with its own draw."""
    skills = SPECIALISMS[specialism].skills + SPECIALISMS[specialism ^ 1].skills
    wording = [next(draws) for _ in skills]  # one for each skill, held or not: a new skill rewords no old one
    return [(skill, wording[bit]) for bit, skill in enumerate(skills) if mask >> bit & 1]


def _stray_skill(specialism: int, draws: Iterator[int]) -> Skill:
    """Some skill of another trade: a distractor, which counts for nothing."""
    after_trade = (specialism // 2 + 1) * _N_TRADE_SKILLS
    others = len(_ALL_SKILLS) - _N_TRADE_SKILLS
    return _ALL_SKILLS[(after_trade + next(draws) % others) % len(_ALL_SKILLS)]


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
