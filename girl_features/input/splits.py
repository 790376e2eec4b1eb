"""Time windows, and the decisions, pairs and CVs of each window.

The windows follow each other: SFT, reward, RL, ranking train, valid, test. Each decision is in exactly one of them.
The CV of a decision is the seeker's newest version strictly before it. The SQL here spells the column names of
`schema.py` out, so that a query can be read and pasted into DuckDB; a test compares the two.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from itertools import accumulate
from typing import NamedTuple

import polars as pl

from girl_features.config import WindowsConfig
from girl_features.errors import EmptyWindowError, LeakageError
from girl_features.input.report import WindowsSummary, WindowSummary
from girl_features.input.tables import Tables
from girl_features.schema import JOB_SEEKER_ID, MATCHED

WINDOWS = ("sft", "reward", "rl", "train", "valid", "test")
_log = logging.getLogger(__name__)


class Windows(NamedTuple):
    """Ends of the windows, in UTC, exclusive. Each is the start of the next window; the last window has no end."""

    sft_end: datetime
    reward_end: datetime
    rl_end: datetime
    train_end: datetime
    valid_end: datetime

    def bounds(self, window: str) -> Bounds:
        """Return the start and end of one of WINDOWS."""
        i = WINDOWS.index(window)
        return Bounds(self[i - 1] if i > 0 else None, self[i] if i < len(self) else None)


class Bounds(NamedTuple):
    """Limits of a window: start <= decided_at < end; None is no limit."""

    start: datetime | None
    end: datetime | None


class RankingSplit(NamedTuple):
    """The decisions of the three ranking windows, each frame sorted by decided_at, job_seeker_id, job_id.

    Columns: job_seeker_id, job_id, matched, decided_at, is_cold_start (the seeker has no decision in the
    ranking train window).
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame


def check_no_leakage(windows: Windows, trained_until: datetime) -> None:
    """Raise LeakageError if a model that was trained until then has seen decisions of the ranking windows."""
    if trained_until > windows.rl_end:
        raise LeakageError(
            f"the generator or its encoder has seen data until {trained_until.isoformat()}, but ranking labels begin "
            f"at {windows.rl_end.isoformat()}; move `windows.rl_end` to that day or a later one; or train on the "
            f"earlier windows a generator with `girl train sft`, of a base that knows no more, and a tuned encoder "
            f"with `girl train encoder`"
        )


def cut_windows(tables: Tables, config: WindowsConfig) -> Windows:
    """Return the ends given in `config`, or else ends that give each window its share of all decisions.

    A share is met only approximately, since decisions of the same instant are never separated.

    Raises:
        EmptyWindowError: `config` gives shares, but there are no decisions.
    """
    ends = (config.sft_end, config.reward_end, config.rl_end, config.train_end, config.valid_end)
    given = [end for end in ends if end is not None]
    if len(given) == len(ends):
        return Windows(*given)
    shares = (config.sft_share, config.reward_share, config.rl_share, config.train_share, config.valid_share)
    n_decisions = tables.connection.execute("SELECT count(*) FROM interactions").fetchone()
    if n_decisions == (0,):
        raise EmptyWindowError(
            f"there are no usable decisions to cut windows from: {_why_no_decisions(tables)}; mend that, "
            f"or give `windows.sft_end` and the other four ends"
        )
    cumulative_shares = [round(share, 9) for share in accumulate(shares)]
    return Windows(*(_instant_at_share(tables, share) for share in cumulative_shares))


def _why_no_decisions(tables: Tables) -> str:
    counts = tables.report.tables["interactions"]
    if not counts.n_read:
        return "the table interactions has no rows"
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.rejected.items())
    return f"all {counts.n_read:,} rows of interactions were rejected ({reasons})"


def _instant_at_share(tables: Tables, share: float) -> datetime:
    """Return the instant before which the part of all decisions is nearest to `share`; the earlier one of two."""
    row = tables.connection.execute(
        """
        SELECT decided_at FROM (
            SELECT decided_at, sum(n) OVER (ORDER BY decided_at) - n AS n_before, sum(n) OVER () AS n_all
            FROM (SELECT decided_at, count(*) AS n FROM interactions GROUP BY 1)
        )
        ORDER BY abs(n_before - $share::DOUBLE * n_all), decided_at LIMIT 1
        """,
        {"share": share},
    ).fetchone()
    assert row is not None
    instant: datetime = row[0]
    return instant.astimezone(UTC)


# Decisions of a window, each with the time of its CV. Only keys and times are joined here; the texts are joined later.
DECISIONS_SQL = """
    SELECT i.job_seeker_id, i.job_id, i.matched, i.decided_at, v.updated_at
    FROM (SELECT * FROM interactions
          WHERE ($start::TIMESTAMPTZ IS NULL OR decided_at >= $start::TIMESTAMPTZ)
            AND ($end::TIMESTAMPTZ IS NULL OR decided_at < $end::TIMESTAMPTZ)) i
    ASOF JOIN (SELECT job_seeker_id, updated_at FROM job_seekers) v
      ON i.job_seeker_id = v.job_seeker_id AND i.decided_at > v.updated_at
"""

_SFT_PAIRS = f"""
    SELECT job_seeker_id, job_id, cv, jd, decided_at
    FROM ({DECISIONS_SQL})
    JOIN job_seekers USING (job_seeker_id, updated_at)
    JOIN jobs USING (job_id)
    WHERE matched AND cv <> ''
    ORDER BY decided_at, job_seeker_id, job_id
"""

_PREFERENCE_PAIRS = f"""
    WITH decisions AS MATERIALIZED (
        SELECT job_seeker_id, updated_at, job_id, bool_or(matched) AS ever_matched,
               coalesce(min(decided_at) FILTER (matched), min(decided_at)) AS first_decided_at
        FROM ({DECISIONS_SQL}) GROUP BY ALL
    )
    SELECT job_seeker_id, cv, chosen_job.jd AS chosen, rejected_job.jd AS rejected,
           greatest(chosen.first_decided_at, rejected.first_decided_at) AS decided_at
    FROM decisions AS chosen
    JOIN decisions AS rejected USING (job_seeker_id, updated_at)
    JOIN job_seekers USING (job_seeker_id, updated_at)
    JOIN jobs AS chosen_job ON chosen_job.job_id = chosen.job_id
    JOIN jobs AS rejected_job ON rejected_job.job_id = rejected.job_id
    WHERE chosen.ever_matched AND NOT rejected.ever_matched AND cv <> '' AND chosen_job.jd <> rejected_job.jd
    ORDER BY decided_at, job_seeker_id, chosen.job_id, rejected.job_id, updated_at
"""

_RL_CVS = f"""
    SELECT job_seeker_id, cv, updated_at, cv_hash
    FROM (SELECT DISTINCT job_seeker_id, updated_at FROM ({DECISIONS_SQL}))
    JOIN job_seekers USING (job_seeker_id, updated_at)
    WHERE cv <> ''
      AND job_seeker_id NOT IN (SELECT job_seeker_id FROM interactions WHERE decided_at < $start)
    ORDER BY job_seeker_id, updated_at
"""

TRAINING_SQL = {"sft": _SFT_PAIRS, "reward": _PREFERENCE_PAIRS, "rl": _RL_CVS}

_RANKED = """
    SELECT job_seeker_id, job_id, matched, decided_at,
           job_seeker_id NOT IN (SELECT job_seeker_id FROM interactions
                                 WHERE decided_at >= $train_start AND decided_at < $train_end) AS is_cold_start,
           {not_erased} AS not_erased
    FROM interactions
    WHERE decided_at >= $start AND ($end::TIMESTAMPTZ IS NULL OR decided_at < $end::TIMESTAMPTZ)
    ORDER BY decided_at, job_seeker_id, job_id
"""


def sft_pairs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Return the matched decisions of the SFT window with both texts, without those whose CV is blank.

    Returns:
        Columns job_seeker_id, job_id, cv, jd, decided_at; sorted by decided_at and ids.
    Raises:
        EmptyWindowError: there are none.
    """
    pairs = _query_window(tables, _SFT_PAIRS, windows, "sft")
    if pairs.is_empty():
        raise _empty_window_error(windows, "sft", "no matched decision with a CV")
    return pairs


def preference_pairs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Return each (matched, mismatched) pair of jobs of one CV version in the reward window, once.

    A job that the version both matched and mismatched counts as matched. Pairs of equal JDs and blank CVs are left
    out. `decided_at` is the time when both decisions were known.

    Returns:
        Columns job_seeker_id, cv, chosen, rejected, decided_at; sorted by decided_at and ids. There may be no rows.
    """
    return _query_window(tables, _PREFERENCE_PAIRS, windows, "reward")


def rl_cvs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Return the CV versions of the RL window's decisions, only of seekers without a decision in an earlier window.

    Returns:
        Columns job_seeker_id, cv, updated_at, cv_hash; sorted by id and time, no blank CVs. There may be no rows.
    """
    return _query_window(tables, _RL_CVS, windows, "rl")


def ranking_split(tables: Tables, windows: Windows) -> RankingSplit:
    """Return the decisions of the train, valid and test windows.

    Decisions of erased seekers are left out, because the store has no vectors to join to them; a log message
    counts them.

    Raises:
        EmptyWindowError: a window has no decisions, or only matched or only mismatched ones.
    """
    frames = []
    n_erased = 0
    query = _RANKED.format(not_erased=tables.erased.condition([JOB_SEEKER_ID]))
    for window in RankingSplit._fields:
        decisions = _query_window(tables, query, windows, window, train_bounds(windows))
        frame = decisions.filter("not_erased").drop("not_erased")
        n_erased += decisions.height - frame.height
        if frame.is_empty():
            raise _empty_window_error(windows, window, "no decisions")
        if frame[MATCHED].n_unique() == 1:
            outcome = "matched" if frame[MATCHED][0] else "mismatched"
            problem = f"only {outcome} decisions ({frame.height}), and a ranker needs both kinds"
            raise _empty_window_error(windows, window, problem)
        frames.append(frame)
    if n_erased:
        _log.warning("%d decisions of erased job seekers are left out of the ranking windows", n_erased)
    return RankingSplit(*frames)


def summarize(tables: Tables, windows: Windows) -> WindowsSummary:
    """Return the counts of every window; those of an empty window are 0."""
    return WindowsSummary(tuple(_summarize_window(tables, windows, window) for window in WINDOWS))


def _summarize_window(tables: Tables, windows: Windows, window: str) -> WindowSummary:
    bounds = windows.bounds(window)
    has_cold_start = window in ("valid", "test")
    is_cold = "job_seeker_id NOT IN (SELECT job_seeker_id FROM ranked)" if has_cold_start else "false"
    n_usable = f"(SELECT count(*) FROM ({TRAINING_SQL[window]}))" if window in TRAINING_SQL else "count(*)"
    counts = tables.connection.execute(
        f"""
        WITH ranked AS (SELECT job_seeker_id FROM interactions
                        WHERE decided_at >= $train_start AND decided_at < $train_end)
        SELECT count(*), count(*) FILTER (matched), count(DISTINCT job_seeker_id), {n_usable},
               count(*) FILTER (is_cold), count(DISTINCT job_seeker_id) FILTER (is_cold)
        FROM (SELECT *, {is_cold} AS is_cold FROM ({DECISIONS_SQL}))
        """,
        {**bounds._asdict(), **train_bounds(windows)},
    ).fetchone()
    assert counts is not None
    return WindowSummary(window, *bounds, *counts)


def train_bounds(windows: Windows) -> dict[str, datetime]:
    """Return the SQL parameters for the start and end of the ranking train window."""
    return {"train_start": windows.rl_end, "train_end": windows.train_end}


def _query_window(
    tables: Tables, query: str, windows: Windows, window: str, extra: dict[str, datetime] | None = None
) -> pl.DataFrame:
    return tables.connection.execute(query, {**windows.bounds(window)._asdict(), **(extra or {})}).pl()


def _empty_window_error(windows: Windows, window: str, problem: str) -> EmptyWindowError:
    start, end = windows.bounds(window)
    i = WINDOWS.index(window)
    keys = [f"`windows.{name}_end`" for name in WINDOWS[max(i - 1, 0) : min(i + 1, len(windows))]]
    share = f"`windows.{WINDOWS[i if i < len(windows) else i - 1]}_share`"
    return EmptyWindowError(
        f"the {window} window, from {start.isoformat() if start else 'the start'} to "
        f"{end.isoformat() if end else 'the end'}, has {problem}; change {' or '.join(keys)} or {share}; "
        f"`girl check` counts every window"
    )
