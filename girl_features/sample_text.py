"""CVs and JDs of the sample market, as text: hidden states in, everyday and employers' English out."""

from __future__ import annotations

import numpy as np

from girl_features.sample_market import CITIES, REMOTE, SPECIALISMS, Jobs, Versions
from girl_features.sample_words import TRADES, Skill

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

N_DRAWS = 24  # random numbers one text may use
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
    return [_cv(rows[seeker], *state) for seeker, *state in zip(*states, strict=True)]


def jd_texts(jobs: Jobs, styles: np.ndarray) -> list[str]:
    """The JD of each of m jobs, worded by the rows of `styles`, (m, N_DRAWS) non-negative integers."""
    states = zip(styles.tolist(), *(column.tolist() for column in jobs), strict=True)
    return [_jd(*state) for state in states]


def _pick(options: tuple[str, ...], draw: int) -> str:
    return options[draw % len(options)]


def _several(options: tuple[str, ...], n: int, first: int, step: int) -> str:
    """n different options, every `step`-th from number `first` on; as many options as a prime, so none repeats."""
    step = 1 + step % (len(options) - 1)
    return " ".join(options[(first + k * step) % len(options)] for k in range(n))


def _skills(specialism: int, mask: int) -> list[Skill]:
    """Skills of a mask: bits 0-2 of the specialism, bits 3-5 of the trade's other one."""
    return [
        SPECIALISMS[specialism if bit < 3 else specialism ^ 1].skills[bit % 3] for bit in range(6) if mask >> bit & 1
    ]


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _cv(draws: list[int], years: int, specialism: int, rung: int, city: int, can_move: bool, skills: int) -> str:
    trade = TRADES[specialism // 2]
    title = _pick(SPECIALISMS[specialism].cv_titles, draws[1])
    place = _pick(trade.cv_workplaces, draws[2])
    time = "under a year" if years == 0 else "one year" if years == 1 else f"{years} years"
    standing = _pick(CV_RUNGS[rung], draws[3])
    said = [
        phrase
        for k, skill in enumerate(_skills(specialism, skills))
        for phrase in (skill.cv if draws[4 + k] % 3 == 0 else (_pick(skill.cv, draws[4 + k]),))
    ]
    move = _pick(CV_MOVE[can_move], draws[10])
    before = _several(CV_BEFORE, 2, draws[11], draws[18])
    life = _several(CV_LIFE, 3, draws[12], draws[13])
    once = ""
    if draws[14] % 10 < 3:  # a distractor: another trade's skill that carries no weight
        once = " " + _pick(CV_ONCE, draws[15]).format(_pick(_ALL_SKILLS[draws[16] % 72].cv, draws[17]))
    town = CITIES[city]
    layout = draws[0] % 4
    if layout == 0:
        return (
            f"I am a {title} from {town}, {time} {place}, {standing}. My days: {_and(said)}. "
            f"{before}{once} {life} {move}"
        )
    if layout == 1:
        lines = "\n".join(f"- {phrase}" for phrase in said)
        return (
            f"WORK\n{title}, {place}, {time}\n{lines}\n{_sentence(standing)}\n"
            f"EARLIER\n{before}{once}\nHOME\n{town}. {move}\nME\n{life}"
        )
    if layout == 2:
        return (
            f"{title} | {town} | {time}\n{life}\nWhere: {place}, {standing}.\n"
            f"What I do well: {'; '.join(said)}.\n{move}\n{before}{once}"
        )
    return (
        f"Living in {town}. {move} {before} Now {time} {place} as a {title}, {standing}. "
        f"I am good at {_and(said)}.{once} {life}"
    )


def _jd(draws: list[int], specialism: int, rung: int, city: int, skills: int) -> str:
    trade = TRADES[specialism // 2]
    word = JD_RUNGS[rung]
    job = _pick(SPECIALISMS[specialism].jd_titles, draws[1])
    workplace = _pick(trade.jd_workplaces, draws[2])
    if city == REMOTE:
        title = f"{word} {job} (remote)"
        employer = _pick(JD_REMOTE_EMPLOYER, draws[3]).format(workplace)
    else:
        title = f"{word} {job}, {CITIES[city]}"
        employer = _pick(JD_EMPLOYER, draws[3]).format(workplace, CITIES[city])
    wanted = _skills(specialism, skills)
    named = [phrase for k, skill in enumerate(wanted) for phrase in _both(skill.jd, draws[4 + k])]
    duties = _pick(JD_DUTIES, draws[8]).format(_and(named))
    needs = _pick(JD_RUNG_NEEDS[rung], draws[9])
    site = JD_SITES[city == REMOTE][draws[16] % 2].format(CITIES[city % len(CITIES)])
    offer = _several(JD_OFFER, 3, draws[10], draws[11])
    plus = ""
    if draws[12] % 4 == 0:  # a distractor: nobody is turned down for it
        plus = " " + _pick(JD_PLUS, draws[13]).format(_pick(_ALL_SKILLS[draws[14] % 72].jd, draws[15]))
    layout = draws[0] % 3
    if layout == 0:
        return f"{title}\n{employer} {duties} {needs}{plus} {offer} {site}"
    if layout == 1:
        bullets = "\n".join(f"- {phrase}" for phrase in named)
        return f"{title}\n{employer}\nResponsibilities:\n{bullets}\nProfile: {needs}{plus}\n{offer}\n{site}"
    return f"{title}\n{offer}\n{duties}\n{needs}{plus}\n{employer} {site}"


def _both(phrasings: tuple[str, str], draw: int) -> tuple[str, str]:
    return phrasings if draw % 2 == 0 else (phrasings[1], phrasings[0])
