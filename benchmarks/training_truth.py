"""Read a job out of a JD's text and rate how well it fits a job seeker, by the planted law of the sample market.

This works on the simulation only. A generator can learn to please a reward model; it cannot change the law.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from girl_features.sample.market import CITIES, Jobs, People, simulate_block, true_fit
from girl_features.sample.words import sample_words, specialisms

UNKNOWN = -1  # the JD names no such thing
NO_SKILL = 64  # the code of a skill that nobody has
NO_RUNG = 99  # far from every rung, so that it fits nobody


def people_by_cv(data: Path, seed: int) -> dict[str, People]:
    """Return the simulated person behind each CV text.

    Args:
        data: folder that `write_sample` wrote.
        seed: the seed that `write_sample` was given.
    """
    cvs = pl.read_parquet(data / "job_seekers.parquet")["cv"].to_list()
    people_of: dict[str, People] = {}
    block = 0
    while cvs:
        people = simulate_block(seed, block).versions.people
        block_cvs, cvs = cvs[: len(people.rung)], cvs[len(people.rung) :]
        for i, cv in enumerate(block_cvs):
            people_of[cv] = People(*(column[i] for column in people))
        block += 1
    return people_of


def job_of(text: str) -> Jobs:
    """Return the job that a JD describes, with UNKNOWN or NO_SKILL for what the text does not name.

    The specialism is the one with most of its titles and duties in the text. The first word decides on the rung if it
    names one, else the first rung whose needs the text names. The city is the one that the text names first.
    """
    text = " ".join(text.split())
    hits = [_n_mentions(text, number) for number in range(len(specialisms()))]
    specialism = int(np.argmax(hits)) if max(hits) > 0 else UNKNOWN
    skills = _skills(text, specialism) if specialism != UNKNOWN else NO_SKILL
    return Jobs(*map(np.array, (specialism, _rung(text), _city(text), skills)))


def fit_of(people: People, text: str) -> float:
    """Return `true_fit` in [0, 1] of the job that the JD `text` describes. What the text leaves out does not fit."""
    job = job_of(text)
    if job.rung == UNKNOWN:
        job = job._replace(rung=np.array(NO_RUNG))
    return float(true_fit(people, job))


def _n_mentions(text: str, number: int) -> int:
    """Mentions of a specialism in the text; a title counts twice."""
    specialism = specialisms()[number]
    n_titles = sum(title in text for title in specialism.jd_titles)
    n_duties = sum(phrase in text for skill in specialism.skills for phrase in skill.jd)
    return 2 * n_titles + n_duties


def _rung(text: str) -> int:
    phrases = sample_words().phrases
    first_word = text.split(" ")[0]
    if first_word in phrases.jd_rungs:
        return phrases.jd_rungs.index(first_word)
    for rung, needs in enumerate(phrases.jd_rung_needs):
        if any(need in text for need in needs):
            return rung
    return UNKNOWN


def _city(text: str) -> int:
    """Number of the city, or of `remote`, that the text names first."""
    places = [text.find(f", {city}") for city in (*CITIES, "remote")]
    named = [place if place >= 0 else len(text) for place in places]
    return int(np.argmin(named)) if min(named) < len(text) else UNKNOWN


def _skills(text: str, specialism: int) -> int:
    """Bit mask of the skills that the text names, of the specialism's own and those of its neighbour."""
    skills = specialisms()[specialism].skills + specialisms()[specialism ^ 1].skills
    mask = 0
    for i, skill in enumerate(skills):
        if any(phrase in text for phrase in skill.jd):
            mask |= 1 << i
    return mask or NO_SKILL
