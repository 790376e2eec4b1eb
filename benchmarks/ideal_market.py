"""The sample market with the JDs that an ideal generator would write.

For each CV the ideal generator writes the JD of the job that fits the CV best by the planted law. The job is from
another block of the market than the seeker's, so that its JD is never the text under decision.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from girl_features.sample.market import BLOCK_SEEKERS, Jobs, People, simulate_block, true_fit
from girl_features.sample.tables import block_tables
from girl_features.schema import CV, JD

TRAIN_FROM, TRAIN_UNTIL, TEST_FROM = 0.55, 0.82, 0.88  # shares of the decisions, by time: the default windows


class CvVersions(NamedTuple):
    """n CV versions; numbers are rows of `IdealMarket.texts`."""

    seeker: np.ndarray  # (n,) str
    cv: np.ndarray  # (n,)
    best: np.ndarray  # (n,) JD of the job that fits best
    second: np.ndarray  # (n,) JD of the job that fits second-best
    updated_at: np.ndarray  # (n,) days


class MarketDecisions(NamedTuple):
    """n decisions; numbers are rows of `IdealMarket.texts`."""

    seeker: np.ndarray  # (n,) str
    cv: np.ndarray  # (n,)
    jd: np.ndarray  # (n,)
    best: np.ndarray  # (n,)
    second: np.ndarray  # (n,)
    probability: np.ndarray  # (n,) of a match
    matched: np.ndarray  # (n,) bool
    decided_at: np.ndarray  # (n,) days


class IdealMarket(NamedTuple):
    """A simulated market with its ideal JDs."""

    texts: list[str]  # each once
    versions: CvVersions
    decisions: MarketDecisions
    n_seekers: int


def n_blocks_for(n_seekers: int) -> int:
    """Return the number of blocks that hold so many seekers, at least two."""
    return max(2, -(-n_seekers // BLOCK_SEEKERS))


def ideal_market(n_blocks: int, seed: int) -> IdealMarket:
    """Simulate a market of `n_blocks` blocks."""
    blocks = [simulate_block(seed, block) for block in range(n_blocks)]
    tables = [block_tables(seed, block, BLOCK_SEEKERS, 0) for block in range(n_blocks)]
    number_of: dict[str, int] = {}

    def numbers(column: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
        return np.array([number_of.setdefault(text, len(number_of)) for text in column.take(rows).to_pylist()])

    all_versions, all_decisions = [], []
    for block, market in enumerate(blocks):
        other = (block + 1) % n_blocks
        order = _jobs_by_fit(market.versions.people, blocks[other].jobs)
        other_jds = tables[other]["jobs"][JD]
        versions = CvVersions(
            seeker=np.array([f"{block}-{i}" for i in market.versions.seeker.tolist()]),
            cv=numbers(tables[block]["job_seekers"][CV], np.arange(len(order))),
            best=numbers(other_jds, order[:, 0]),
            second=numbers(other_jds, order[:, 1]),
            updated_at=market.versions.updated_at,
        )
        decisions = market.decisions
        row = decisions.version
        all_versions.append(versions)
        all_decisions.append(
            MarketDecisions(
                seeker=versions.seeker[row],
                cv=versions.cv[row],
                jd=numbers(tables[block]["jobs"][JD], decisions.job),
                best=versions.best[row],
                second=versions.second[row],
                probability=decisions.probability,
                matched=decisions.matched,
                decided_at=decisions.decided_at,
            )
        )
    return IdealMarket(
        list(number_of),
        CvVersions(*map(np.concatenate, zip(*all_versions, strict=True))),
        MarketDecisions(*map(np.concatenate, zip(*all_decisions, strict=True))),
        n_blocks * BLOCK_SEEKERS,
    )


def _jobs_by_fit(people: People, jobs: Jobs) -> np.ndarray:
    """Return (n people, n jobs) numbers of the jobs, the best first."""
    rows = People(*(column[:, None] for column in people))
    columns = Jobs(*(column[None, :] for column in jobs))
    return np.argsort(-true_fit(rows, columns), axis=1, kind="stable")
