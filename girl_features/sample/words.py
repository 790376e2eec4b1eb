"""Words of the sample market, read from words.yaml, which explains trades, specialisms and skills."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import TypeAdapter


class Skill(NamedTuple):
    """One skill in the language of each side."""

    cv: tuple[str, str]  # phrases of seekers: "-ing" forms and noun phrases
    jd: tuple[str, str]  # phrases of employers: they follow "you will"


class Specialism(NamedTuple):
    """Half of a trade: its titles and skills."""

    name: str
    carries_to: str  # name of the specialism that its skills transfer to
    cv_titles: tuple[str, str]
    jd_titles: tuple[str, str]
    skills: tuple[Skill, Skill, Skill]


class Trade(NamedTuple):
    """Two specialisms that share a workplace."""

    name: str
    weight: float  # share of job seekers, before normalization
    cv_workplaces: tuple[str, str]
    jd_workplaces: tuple[str, str]
    specialisms: tuple[Specialism, Specialism]


class Phrases(NamedTuple):
    """Sentences around the trades' words."""

    cv_rungs: tuple[tuple[str, ...], ...]  # one tuple a rung of the career ladder
    jd_rungs: tuple[str, ...]
    jd_rung_needs: tuple[tuple[str, ...], ...]
    cv_move: tuple[tuple[str, ...], tuple[str, ...]]  # indexed by `can_move`
    cv_life: tuple[str, ...]
    cv_before: tuple[str, ...]
    cv_distraction: tuple[str, ...]
    jd_employer: tuple[str, ...]
    jd_remote_employer: tuple[str, ...]
    jd_sites: tuple[tuple[str, ...], tuple[str, ...]]  # indexed by "the job is remote"
    jd_duties: tuple[str, ...]
    jd_distraction: tuple[str, ...]
    jd_offer: tuple[str, ...]
    cv_layouts: tuple[str, ...]
    jd_layouts: tuple[str, ...]


class SampleWords(NamedTuple):
    """Contents of words.yaml."""

    trades: tuple[Trade, ...]
    phrases: Phrases


@cache
def sample_words() -> SampleWords:
    """Return the contents of words.yaml, read once per process."""
    content = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    return TypeAdapter(SampleWords).validate_python(content)


@cache
def specialisms() -> tuple[Specialism, ...]:
    """Return all specialisms; those of trade t have the numbers 2 t and 2 t + 1."""
    return tuple(specialism for trade in sample_words().trades for specialism in trade.specialisms)
