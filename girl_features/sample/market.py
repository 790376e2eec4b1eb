"""Hidden states of the sample market: people, jobs, decisions, and the rule by which recruiters decide.

A `Block` is one small labour market, drawn from (seed, block number) alone. The constants below and `true_fit` define
the planted effects and their strength; the docstring of `tables.py` describes them in words.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from girl_features.sample.words import sample_words, specialisms

BLOCK_SEEKERS = 512
BLOCK_JOBS = 1024
OPEN_JOBS = 120  # a decision is about one of the 120 newest postings of its block
SPAN_DAYS = 3 * 365.0  # all decisions fall in this span; times are days from its start
WARM_UP_DAYS = 150.0  # postings begin this long before the span, so that the first decisions have open jobs
LATE_SHARE = 0.25  # share of seekers whose first CV is in the last tenth of the span

CITIES = ("Leeds", "Porto", "Denver", "Lyon", "Gdansk", "Austin")
REMOTE = len(CITIES)  # city number of a remote job
FIRST_YEAR_OF_RUNG = (0, 3, 6, 10)  # years of work at which a rung of the ladder is reached

# recruiters' weights: a fit in [0, 1] becomes log-odds SHARPNESS * (fit - THRESHOLD)
SPECIALISM_WEIGHT, SKILLS_WEIGHT, RUNG_WEIGHT, PLACE_WEIGHT = 0.45, 0.20, 0.17, 0.18
SHARPNESS = 10.0  # the only noise: even a perfect fit fails one time in eight
THRESHOLD = 0.80


class People(NamedTuple):
    """States of job seekers that decisions depend on; integer or bool arrays of one broadcastable shape."""

    specialism: np.ndarray  # index into `specialisms()`
    rung: np.ndarray  # 0 junior .. 3 lead
    city: np.ndarray  # index into CITIES
    can_move: np.ndarray  # bool
    skills: np.ndarray  # bits 0-2: the specialism's skills, bits 3-5: skills of the trade's other specialism


class Jobs(NamedTuple):
    """States of jobs that decisions depend on; integer arrays of one broadcastable shape."""

    specialism: np.ndarray
    rung: np.ndarray
    city: np.ndarray  # index into CITIES, or REMOTE
    skills: np.ndarray  # skills the job needs; bits as in People


class Versions(NamedTuple):
    """CV versions of one block, one row per version, ordered by seeker and time."""

    seeker: np.ndarray  # (v,) number of the seeker within the block
    updated_at: np.ndarray  # (v,) days
    years: np.ndarray  # (v,) whole years of work
    people: People  # arrays of shape (v,)


class Decisions(NamedTuple):
    """Recruiters' decisions of one block, one row per decision, ordered by seeker and time."""

    seeker: np.ndarray  # (d,) number of the seeker within the block
    version: np.ndarray  # (d,) row of Versions: the newest CV strictly before the decision
    job: np.ndarray  # (d,) number of the job within the block
    decided_at: np.ndarray  # (d,) days
    probability: np.ndarray  # (d,) probability of a match
    matched: np.ndarray  # (d,) bool


class Block(NamedTuple):
    """One small labour market."""

    versions: Versions
    jobs: Jobs  # arrays of shape (BLOCK_JOBS,), ordered by posting time
    posted_at: np.ndarray  # (BLOCK_JOBS,) days
    decisions: Decisions


@cache
def transfer_targets() -> np.ndarray:
    """Return the number of the specialism that each specialism carries to, as (24,) integers."""
    names = [specialism.name for specialism in specialisms()]
    return np.array([names.index(specialism.carries_to) for specialism in specialisms()])


def other_half(specialism: np.ndarray) -> np.ndarray:
    """Return the other specialism of the same trade."""
    return specialism ^ 1


def right_rung(people: People) -> np.ndarray:
    """Return the rung that fits: the seeker's rung, or one lower (but not below junior) if the trade changes."""
    changes_trade = transfer_targets()[people.specialism] // 2 != people.specialism // 2
    return np.asarray(np.maximum(people.rung - changes_trade, 0))


def covered_skills(people: People, jobs: Jobs) -> np.ndarray:
    """Return the share in [0, 1] of the job's skills that the seeker has.

    Skill k of a specialism counts as itself and as skill k of the specialism it carries to.
    """
    usable = np.zeros(np.broadcast_shapes(people.skills.shape, jobs.skills.shape), dtype=np.int64)
    other = other_half(people.specialism)
    for specialism, skills in ((people.specialism, people.skills & 7), (other, people.skills >> 3)):
        for usable_in in (specialism, transfer_targets()[specialism]):
            usable |= np.where(usable_in == jobs.specialism, skills, 0)
            usable |= np.where(usable_in == other_half(jobs.specialism), skills << 3, 0)
    return np.asarray(np.bitwise_count(usable & jobs.skills) / np.bitwise_count(jobs.skills))


def true_fit(people: People, jobs: Jobs) -> np.ndarray:
    """Return the planted fit in [0, 1] of each seeker with each job, elementwise after broadcasting.

    The fit is the weighted sum of four parts:

    - specialism: 1 if the seeker's specialism carries to the job's, .5 for the other half of that trade, .4 for the
      seeker's specialism itself, .2 for the other half of the seeker's trade, else 0;
    - skills: `covered_skills`;
    - rung: 1 at `right_rung`, .4 at a distance of one rung, else 0;
    - place: 1 in the seeker's city or remote, .5 elsewhere if the seeker would move, else 0.
    """
    current, target, offered = people.specialism, transfer_targets()[people.specialism], jobs.specialism
    specialism = np.select(
        [offered == target, offered // 2 == target // 2, offered == current, offered // 2 == current // 2],
        [1.0, 0.5, 0.4, 0.2],
    )
    distance = np.abs(jobs.rung - right_rung(people))
    rung = np.select([distance == 0, distance == 1], [1.0, 0.4])
    is_reachable = (jobs.city == people.city) | (jobs.city == REMOTE)
    place = np.where(is_reachable, 1.0, np.where(people.can_move, 0.5, 0.0))
    return np.asarray(
        SPECIALISM_WEIGHT * specialism
        + SKILLS_WEIGHT * covered_skills(people, jobs)
        + RUNG_WEIGHT * rung
        + PLACE_WEIGHT * place
    )


def match_probability(fit: np.ndarray) -> np.ndarray:
    """Return the probability in (0, 1) that both sides agree: logistic(SHARPNESS * (fit - THRESHOLD))."""
    return np.asarray(1.0 / (1.0 + np.exp(-SHARPNESS * (fit - THRESHOLD))))


def simulate_block(seed: int, block: int) -> Block:
    """Simulate BLOCK_SEEKERS seekers and BLOCK_JOBS jobs; equal arguments give equal blocks."""
    rng = np.random.default_rng((seed, block))
    jobs, posted_at = _draw_jobs(rng)
    first, last, n_decisions = _draw_careers(rng)
    versions = _draw_versions(rng, first, last)
    decisions = _draw_decisions(rng, versions, first, last, n_decisions, jobs, posted_at)
    return Block(versions, jobs, posted_at, decisions)


def _bits(order: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return (m,) bit masks with the first n[i] entries of row i of `order`, (m, k), set."""
    taken = np.arange(order.shape[1]) < n[:, None]
    return np.asarray((taken << order).sum(axis=1))


def _draw_jobs(rng: np.random.Generator) -> tuple[Jobs, np.ndarray]:
    """Draw jobs and their posting times. Demand is highest for the specialisms that many seekers carry over to."""
    m = BLOCK_JOBS
    supply = _specialism_weights()
    demand = 0.3 * supply + np.bincount(transfer_targets(), weights=supply, minlength=len(supply))
    specialism = rng.choice(len(supply), m, p=demand / demand.sum())
    rung = rng.choice(4, m, p=(0.3, 0.34, 0.24, 0.12))
    city = np.where(rng.random(m) < 0.2, REMOTE, rng.integers(0, len(CITIES), m))
    skills = _bits(rng.permuted(np.tile(np.arange(3), (m, 1)), axis=1), rng.integers(2, 4, m))
    other = 8 << rng.integers(0, 3, m)
    skills |= np.where(rng.random(m) < 0.3, other, 0)
    slots = (np.arange(m) + rng.random(m)) / m  # one posting per slot, so that some jobs are always open
    posted_at = slots * (SPAN_DAYS + WARM_UP_DAYS) - WARM_UP_DAYS
    return Jobs(specialism, rung, city, skills), posted_at


def _specialism_weights() -> np.ndarray:
    return np.repeat([trade.weight for trade in sample_words().trades], 2)


def _draw_careers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the day of each seeker's first CV, the last day of the search, and the number of decisions."""
    m = BLOCK_SEEKERS
    late = rng.random(m) < LATE_SHARE
    share = np.where(late, rng.uniform(0.90, 0.985, m), rng.uniform(0.0, 0.82, m))
    first = share * SPAN_DAYS
    last = np.minimum(first + 20.0 + rng.exponential(400.0, m), SPAN_DAYS - 0.1)
    n = np.clip(np.exp(rng.normal(1.5, 0.9, m)).astype(np.int64), 1, 30)
    return first, last, np.where(late, (n + 1) // 2, n)


def _draw_versions(rng: np.random.Generator, first: np.ndarray, last: np.ndarray) -> Versions:
    """Draw one to five CVs per seeker. Between two CVs years pass, and skills, town and rung may change."""
    m = len(first)
    weights = _specialism_weights()
    specialism = rng.choice(len(weights), m, p=weights / weights.sum())
    order = rng.permuted(np.tile(np.arange(3), (m, 1)), axis=1)
    order = np.concatenate([order, 3 + rng.permuted(np.tile(np.arange(3), (m, 1)), axis=1)], axis=1)  # (m, 6)
    n_versions = np.minimum(1 + rng.poisson((last - first) / 250.0), 5)
    seeker = np.repeat(np.arange(m), n_versions)
    starts = np.cumsum(n_versions) - n_versions
    n = len(seeker)
    updated_at = first[seeker] + rng.random(n) * (last - first)[seeker]
    updated_at[starts] = first
    updated_at = updated_at[np.lexsort((updated_at, seeker))]

    def since_first(changes: np.ndarray) -> np.ndarray:
        """Sum the changes of each version since the seeker's first CV."""
        total = np.cumsum(changes)
        return np.asarray(total - total[starts][seeker])

    n_skills = np.minimum(rng.integers(2, 5, m)[seeker] + since_first(rng.random(n) < 0.5), 6)
    hop = since_first(np.where(rng.random(n) < 0.15, rng.integers(1, len(CITIES), n), 0))
    years_before = rng.choice((0.5, 3.5, 6.5, 11.0), m, p=(0.28, 0.36, 0.24, 0.12)) + 2.4 * rng.random(m)
    years = (years_before[seeker] + (updated_at - first[seeker]) / 365.0).astype(np.int64)
    people = People(
        specialism[seeker],
        np.searchsorted(FIRST_YEAR_OF_RUNG, years, side="right") - 1,
        (rng.integers(0, len(CITIES), m)[seeker] + hop) % len(CITIES),
        (rng.random(m) < 0.25)[seeker],
        _bits(order[seeker], n_skills),
    )
    return Versions(seeker, updated_at, years, people)


def _draw_decisions(
    rng: np.random.Generator,
    versions: Versions,
    first: np.ndarray,
    last: np.ndarray,
    n_decisions: np.ndarray,
    jobs: Jobs,
    posted_at: np.ndarray,
) -> Decisions:
    """Draw for each decision the CV in force, one of the open jobs and the outcome."""
    seeker = np.repeat(np.arange(len(first)), n_decisions)
    n = len(seeker)
    decided_at = first[seeker] + 0.05 + rng.random(n) * (last - first - 0.05)[seeker]
    decided_at = decided_at[np.lexsort((decided_at, seeker))]
    # Each seeker gets a separate stretch of one axis, so that one search finds the newest CV before each decision.
    width = 2 * SPAN_DAYS
    version = np.searchsorted(versions.seeker * width + versions.updated_at, seeker * width + decided_at) - 1
    people = People(*(column[version] for column in versions.people))
    n_posted = np.searchsorted(posted_at, decided_at)
    open_jobs = n_posted[:, None] - 1 - np.arange(OPEN_JOBS)  # (n, OPEN_JOBS), newest first
    offered = Jobs(*(column[open_jobs] for column in jobs))
    fit = true_fit(People(*(column[:, None] for column in people)), offered)
    choice = _choose(rng, people, offered, fit)
    rows = np.arange(n)
    job = open_jobs[rows, choice]
    probability = match_probability(fit[rows, choice])
    matched = rng.random(n) < probability
    keep = np.sort(np.unique(seeker * BLOCK_JOBS + job, return_index=True)[1])  # the first decision on each pair
    return Decisions(*(column[keep] for column in (seeker, version, job, decided_at, probability, matched)))


def _choose(rng: np.random.Generator, people: People, offered: Jobs, fit: np.ndarray) -> np.ndarray:
    """Draw the column of the job of each decision: a promising job (30 %), a near miss (30 %), any job (40 %).

    Near misses are jobs of the seeker's specialism (10 %) and jobs of the specialism it carries to, with any rung and
    place (20 %). A column is drawn with a probability proportional to exp(score), as the index of the smallest of
    independent exponential variables with rates exp(score).
    """
    n = len(fit)
    same = offered.specialism == people.specialism[:, None]
    target = offered.specialism == transfer_targets()[people.specialism][:, None]
    kind = rng.choice(4, n, p=(0.30, 0.10, 0.20, 0.40))[:, None]
    score = np.select([kind == 0, kind == 1, kind == 2], [14.0 * fit, 6.0 * same, 6.0 * target])
    return np.asarray(np.argmin(rng.standard_exponential(fit.shape) * np.exp(-score), axis=1))
