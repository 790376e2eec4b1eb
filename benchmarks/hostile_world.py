"""A small market of seekers, jobs and decisions, and the rows of it that `girl check` should keep.

`kept_rows` is a second, slow statement of the rules of the input tables. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

NOW = datetime(2025, 1, 1, tzinfo=UTC)
TABLES = {
    "job_seekers": ("job_seeker_id", "cv", "updated_at"),
    "jobs": ("job_id", "jd", "posted_at"),
    "interactions": ("job_seeker_id", "job_id", "matched", "decided_at"),
}
_WORDS = ("weld", "nurse", "drive", "cook", "Zürich", "данные", "数据", "مدير", "C++", "naïve")

Rows = list[tuple[Any, ...]]


class Market(NamedTuple):
    """The rows of the three tables, with ids as whole numbers."""

    job_seekers: Rows
    jobs: Rows
    interactions: Rows


def make_market(rng: np.random.Generator, ids: Sequence[int], n_decisions: int = 12) -> Market:
    """Draw a market in which every row is good. The first half of `ids` are seekers, and the rest are jobs."""
    half = len(ids) // 2
    seekers = [(i, _text(rng), _day(rng, 2015, 2016)) for i in ids[:half]]
    jobs = [(i, _text(rng), _day(rng, 2015, 2016)) for i in ids[half:]]
    decisions = [
        (ids[int(rng.integers(half))], ids[half + int(rng.integers(len(ids) - half))], bool(rng.integers(2)), moment)
        for moment in (_day(rng, 2018, 2020) + timedelta(days=k) for k in range(n_decisions))
    ]
    return Market(seekers, jobs, decisions)


def _text(rng: np.random.Generator) -> str:
    return " ".join(_WORDS[k] for k in rng.integers(len(_WORDS), size=int(rng.integers(1, 6))))


def _day(rng: np.random.Generator, first_year: int, last_year: int) -> datetime:
    days = (datetime(last_year, 12, 31, tzinfo=UTC) - datetime(first_year, 1, 1, tzinfo=UTC)).days
    return datetime(first_year, 1, 1, tzinfo=UTC) + timedelta(days=int(rng.integers(days)))


def kept_rows(market: Market) -> dict[str, Rows]:
    """Return the rows to keep of each table, sorted. Ids are text or None, and times are in UTC or None."""
    seekers = {(i, t): (i, cv or "", t) for i, cv, t in market.job_seekers if _is_id(i) and t is not None}
    jobs: dict[str, tuple[Any, ...]] = {}
    reposted = set()
    for job, jd, posted_at in market.jobs:
        if _is_id(job) and posted_at is not None and jd:
            reposted |= {job} & set(jobs)
            if job not in jobs or posted_at >= jobs[job][2]:
                jobs[job] = (job, jd, posted_at)
    first_cv: dict[str, datetime] = {}
    for seeker, moment in seekers:
        first_cv[seeker] = min(moment, first_cv.get(seeker, moment))
    decisions = {}
    for seeker, job, matched, decided_at in market.interactions:
        if not (_is_id(seeker) and _is_id(job)) or matched is None or decided_at is None:
            continue
        if seeker not in first_cv or job not in jobs or decided_at <= first_cv[seeker]:
            continue
        if job in reposted and decided_at <= jobs[job][2]:
            continue
        decisions[seeker, job, decided_at] = (seeker, job, matched, decided_at)
    return {
        "job_seekers": sorted(seekers.values()),
        "jobs": sorted(jobs.values()),
        "interactions": sorted(decisions.values()),
    }


def _is_id(value: Any) -> bool:
    return value is not None and value.strip() != ""
