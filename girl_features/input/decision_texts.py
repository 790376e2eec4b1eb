"""Decisions of a window with the texts that were known then."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.input.tables import Tables
from girl_features.schema import CV, JD, JOB_ID, JOB_SEEKER_ID, MATCHED

# decisions from $start to before $end, without erased seekers, each with the newest CV version strictly before it
_DECISIONS_WITH_TEXTS = """
    SELECT job_seeker_id, job_id, matched, decided_at, updated_at, cv_hash, cv, jd
    FROM (SELECT i.job_seeker_id, i.job_id, i.matched, i.decided_at, v.updated_at
          FROM (SELECT * FROM interactions
                WHERE ($start::TIMESTAMPTZ IS NULL OR decided_at >= $start::TIMESTAMPTZ)
                  AND ($end::TIMESTAMPTZ IS NULL OR decided_at < $end::TIMESTAMPTZ) AND {not_erased}) i
          ASOF JOIN (SELECT job_seeker_id, updated_at FROM job_seekers) v
            ON i.job_seeker_id = v.job_seeker_id AND i.decided_at > v.updated_at)
    JOIN job_seekers USING (job_seeker_id, updated_at)
    JOIN jobs USING (job_id)
    ORDER BY decided_at, job_seeker_id, job_id
"""


class DecisionTexts(NamedTuple):
    """Ids, texts and outcomes of m decisions. Equal texts share one string object."""

    job_seeker_ids: np.ndarray  # (m,) str
    job_ids: np.ndarray  # (m,) str
    cvs: np.ndarray  # (m,) object: str
    jds: np.ndarray  # (m,) object: str
    matched: np.ndarray  # (m,) bool

    @classmethod
    def of(cls, decisions: pl.DataFrame) -> DecisionTexts:
        """Return the columns of a frame that `decisions_with_texts` returned."""
        return cls(
            job_seeker_ids=decisions[JOB_SEEKER_ID].to_numpy().astype(np.str_),
            job_ids=decisions[JOB_ID].to_numpy().astype(np.str_),
            cvs=shared_strings(decisions[CV]),
            jds=shared_strings(decisions[JD]),
            matched=decisions[MATCHED].to_numpy(),
        )

    @property
    def matched_pairs(self) -> tuple[list[str], list[str]]:
        """CVs and JDs of the matched decisions whose CV is not empty."""
        kept = self.matched & np.array([bool(cv.strip()) for cv in self.cvs], bool)
        return list(self.cvs[kept]), list(self.jds[kept])

    def newest_matched_pairs(self, n_pairs: int) -> tuple[list[str], list[str]]:
        """Return the last `n_pairs` of `matched_pairs`, or all if there are fewer."""
        cvs, jds = self.matched_pairs
        first = max(0, len(cvs) - n_pairs)
        return cvs[first:], jds[first:]


def decisions_with_texts(tables: Tables, start: datetime | None, end: datetime | None) -> pl.DataFrame:
    """Return the decisions from `start` to before `end` that have a CV, sorted by time and ids; None is no limit.

    Columns: job_seeker_id, job_id, matched, decided_at, updated_at (of the CV), cv_hash, cv, jd. The decisions of
    erased seekers are left out.
    """
    query = _DECISIONS_WITH_TEXTS.format(not_erased=tables.erased.condition([JOB_SEEKER_ID]))
    return tables.connection.execute(query, {"start": start, "end": end}).pl()


def shared_strings(column: pl.Series) -> np.ndarray:
    """Return the strings as an (n,) object array in which equal ones are one object, which saves memory."""
    shared: dict[str, str] = {}
    return np.array([shared.setdefault(text, text) for text in column.to_list()], dtype=object)
