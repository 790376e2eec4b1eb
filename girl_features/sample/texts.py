"""CVs and JDs of the sample market as text: a CV in everyday English, a JD in the language of employers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from girl_features.sample.market import CITIES, REMOTE, Jobs, Versions
from girl_features.sample.words import Skill, sample_words, specialisms

N_DRAWS = 24  # random numbers one text may use


def cv_texts(versions: Versions, styles: np.ndarray) -> list[str]:
    """Write the CV of each of v versions; `styles` is (m, N_DRAWS) non-negative integers, one row per seeker.

    A row decides on the wording of all CVs of its seeker, so a new version differs only where the state changed.
    """
    states = (column.tolist() for column in (versions.seeker, versions.years, *versions.people))
    style_rows = styles.tolist()
    return [_cv(iter(style_rows[seeker]), *state) for seeker, *state in zip(*states, strict=True)]


def jd_texts(jobs: Jobs, styles: np.ndarray) -> list[str]:
    """Write the JD of each of m jobs; `styles` is (m, N_DRAWS) non-negative integers that decide on the wording."""
    states = zip(styles.tolist(), *(column.tolist() for column in jobs), strict=True)
    return [_jd(iter(style), *state) for style, *state in states]


def _cv(draws: Iterator[int], years: int, specialism: int, rung: int, city: int, can_move: bool, skills: int) -> str:
    phrases = sample_words().phrases
    layout = _pick(phrases.cv_layouts, draws)
    trade = sample_words().trades[specialism // 2]
    skill_phrases: list[str] = []
    for skill, draw in _skills_with_draws(specialism, skills, draws):
        if draw % 3 == 0:
            skill_phrases += skill.cv
        else:
            skill_phrases.append(skill.cv[draw // 3 % 2])
    before = _pick_several(phrases.cv_before, 2, draws)
    has_distraction = next(draws) % 10 < 3
    distraction = _pick(phrases.cv_distraction, draws).format(_skill_of_another_trade(specialism, draws).cv[0])
    if has_distraction:
        before += " " + distraction
    return layout.format(
        title=_pick(specialisms()[specialism].cv_titles, draws),
        town=CITIES[city],
        time={0: "under a year", 1: "one year"}.get(years, f"{years} years"),
        place=_pick(trade.cv_workplaces, draws),
        standing=_pick(phrases.cv_rungs[rung], draws),
        listed=_joined(skill_phrases),
        bullets="\n".join(f"- {phrase}" for phrase in skill_phrases),
        before=before,
        life=_pick_several(phrases.cv_life, 3, draws),
        move=_pick(phrases.cv_move[can_move], draws),
    )


def _jd(draws: Iterator[int], specialism: int, rung: int, city: int, skills: int) -> str:
    phrases = sample_words().phrases
    layout = _pick(phrases.jd_layouts, draws)
    is_remote = city == REMOTE
    town = "remote" if is_remote else CITIES[city]
    workplace = _pick(sample_words().trades[specialism // 2].jd_workplaces, draws)
    skill_phrases: list[str] = []
    for skill, draw in _skills_with_draws(specialism, skills, draws):
        skill_phrases += skill.jd if draw % 2 == 0 else skill.jd[::-1]
    needs = _pick(phrases.jd_rung_needs[rung], draws)
    has_distraction = next(draws) % 4 == 0
    distraction = _pick(phrases.jd_distraction, draws).format(_skill_of_another_trade(specialism, draws).jd[0])
    if has_distraction:
        needs += " " + distraction
    employers = phrases.jd_remote_employer if is_remote else phrases.jd_employer
    return layout.format(
        title=f"{phrases.jd_rungs[rung]} {_pick(specialisms()[specialism].jd_titles, draws)}, {town}",
        employer=_pick(employers, draws).format(workplace, town),
        duties=_pick(phrases.jd_duties, draws).format(_joined(skill_phrases)),
        bullets="\n".join(f"- {phrase}" for phrase in skill_phrases),
        needs=needs,
        offer=_pick_several(phrases.jd_offer, 3, draws),
        site=_pick(phrases.jd_sites[is_remote], draws).format(town),
    )


def _pick(options: tuple[str, ...], draws: Iterator[int]) -> str:
    return options[next(draws) % len(options)]


def _pick_several(options: tuple[str, ...], n: int, draws: Iterator[int]) -> str:
    """Join n different options, taken at a constant step. Their number is prime, so no option comes twice."""
    first, step = next(draws), 1 + next(draws) % (len(options) - 1)
    return " ".join(options[(first + k * step) % len(options)] for k in range(n))


def _skills_with_draws(specialism: int, mask: int, draws: Iterator[int]) -> list[tuple[Skill, int]]:
    """Return the skills of a mask, each with its draw. Bits 0-2: the specialism, 3-5: the trade's other specialism."""
    skills = specialisms()[specialism].skills + specialisms()[specialism ^ 1].skills
    # Every skill takes a draw, so that a skill gained later does not reword the others.
    skill_draws = [next(draws) for _ in skills]
    return [(skill, skill_draws[bit]) for bit, skill in enumerate(skills) if mask >> bit & 1]


def _skill_of_another_trade(specialism: int, draws: Iterator[int]) -> Skill:
    """Draw a skill of another trade. It distracts the reader and has no effect on the fit."""
    skills = [skill for row in specialisms() for skill in row.skills]
    n_of_trade = len(skills) // len(sample_words().trades)
    after_trade = (specialism // 2 + 1) * n_of_trade
    return skills[(after_trade + next(draws) % (len(skills) - n_of_trade)) % len(skills)]


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
