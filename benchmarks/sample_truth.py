"""What a JD's words say about its job, and how well that job fits a seeker, by the planted law of the sample market.

For checks of generators on the simulation alone: a reward model can be gamed, the law cannot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from girl_features.sample.market import (
    CITIES,
    Jobs,
    People,
    simulate_block,
    true_fit,
)
from girl_features.sample.words import sample_words, specialisms

UNKNOWN = -1
NO_SKILL = 64  # a need that nobody can meet


def people_by_cv(data: Path, seed: int) -> dict[str, People]:
    """CV text -> the state it tells of, for the sample market that `write_sample` put into `data` with `seed`."""
    cvs = pl.read_parquet(data / "job_seekers.parquet")["cv"].to_list()
    found: dict[str, People] = {}
    block = 0
    while cvs:
        people = simulate_block(seed, block).versions.people
        own, cvs = cvs[: len(people.rung)], cvs[len(people.rung) :]
        found |= {cv: People(*(column[i] for column in people)) for i, cv in enumerate(own)}
        block += 1
    return found


def job_of(text: str) -> tuple[int, int, int, int]:
    """Specialism, rung, city and skills that a JD names, coded as in `Jobs`; UNKNOWN and NO_SKILL where it names none.

    The specialism is the one with most of its titles and duties in the text. The first line decides on rung and city,
    then the rest.
    """
    phrases = sample_words().phrases
    text = " ".join(text.split())
    hits = [
        2 * sum(title in text for title in s.jd_titles) + sum(phrase in text for k in s.skills for phrase in k.jd)
        for s in specialisms()
    ]
    specialism = int(np.argmax(hits)) if max(hits) > 0 else UNKNOWN
    rungs = [any(need in text for need in needs) for needs in phrases.jd_rung_needs]
    first = text.split(" ")[0]
    rung = phrases.jd_rungs.index(first) if first in phrases.jd_rungs else rungs.index(True) if any(rungs) else UNKNOWN
    towns = [text.find(f", {town}") for town in (*CITIES, "remote")]
    named = [place if place >= 0 else len(text) for place in towns]
    city = int(np.argmin(named)) if min(named) < len(text) else UNKNOWN
    skills = NO_SKILL
    if specialism != UNKNOWN:
        both = specialisms()[specialism].skills + specialisms()[specialism ^ 1].skills
        skills = sum(1 << i for i, skill in enumerate(both) if any(phrase in text for phrase in skill.jd)) or NO_SKILL
    return specialism, rung, city, skills


def fit_of(people: People, text: str) -> float:
    """`true_fit` in [0, 1] of the job that the JD `text` describes; what it leaves out does not fit."""
    specialism, rung, city, skills = job_of(text)
    far = 99  # from every rung
    jobs = Jobs(*map(np.array, (specialism, rung if rung != UNKNOWN else far, city, skills)))
    return float(true_fit(people, jobs))
