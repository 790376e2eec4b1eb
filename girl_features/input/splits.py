"""Time windows, and which decisions, pairs and CVs each of them holds.

The windows follow each other: SFT, reward, RL, ranking train, valid, test. A decision falls in exactly one.
The CV of a decision is the seeker's newest version strictly before it. SQL spells column names out here, as
`schema.py` has them, so that a query can be read and pasted into DuckDB.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl

from girl_features.config import WindowsConfig
from girl_features.errors import EmptyWindowError, LeakageError
from girl_features.input.tables import Tables
from girl_features.schema import JOB_SEEKER_ID

WINDOWS = ("sft", "reward", "rl", "train", "valid", "test")
_log = logging.getLogger(__name__)


class Windows(NamedTuple):
    """Where each window ends and the next begins: UTC, microseconds, exclusive. The test window is open."""

    sft_end: datetime
    reward_end: datetime
    rl_end: datetime
    train_end: datetime
    valid_end: datetime

    def bounds(self, window: str) -> Bounds:
        """Start and end of one of WINDOWS."""
        i = WINDOWS.index(window)
        return Bounds(self[i - 1] if i > 0 else None, self[i] if i < len(self) else None)


class Bounds(NamedTuple):
    """start <= decided_at < end; None is open."""

    start: datetime | None
    end: datetime | None


class RankingSplit(NamedTuple):
    """The ranker's decisions, each frame by decided_at, job_seeker_id, job_id.

    Columns: job_seeker_id, job_id, matched, decided_at, is_cold_start (the seeker has no decision in the
    ranking training window).
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame


class WindowSummary(NamedTuple):
    """Counts of one window. Cold start is counted in valid and test, and 0 elsewhere."""

    window: str
    start: datetime | None
    end: datetime | None
    n_decisions: int
    n_matched: int
    n_seekers: int
    n_usable: int  # SFT and preference pairs, RL CVs, ranking decisions
    n_cold_decisions: int
    n_cold_seekers: int


class Summary(NamedTuple):
    """Every window in time order."""

    windows: tuple[WindowSummary, ...]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Window name -> its counts and ISO bounds, for JSON."""
        rows = {}
        for summary in self.windows:
            row = summary._asdict()
            for side in ("start", "end"):
                row[side] = row[side].isoformat() if row[side] is not None else None
            rows[row.pop("window")] = row
        return rows


def check_no_leakage(windows: Windows, trained_until: datetime) -> None:
    """Raise LeakageError if a model that was trained until then has seen decisions of the ranking windows."""
    if trained_until > windows.rl_end:
        raise LeakageError(
            f"the generator has seen data until {trained_until.isoformat()}, but ranking labels begin at "
            f"{windows.rl_end.isoformat()}; train a generator on the earlier windows with `girl train sft`, or "
            f"move `windows.rl_end`"
        )


def cut_windows(tables: Tables, config: WindowsConfig) -> Windows:
    """The ends in `config`, or ends so that each window holds its share of all decisions.

    A share is met as nearly as whole instants allow: decisions of one instant stay together.

    Raises:
        EmptyWindowError: ends are to be cut by share, but there are no decisions.
    """
    ends = (config.sft_end, config.reward_end, config.rl_end, config.train_end, config.valid_end)
    given = [end for end in ends if end is not None]
    if len(given) == len(ends):
        return Windows(*given)
    shares = (config.sft_share, config.reward_share, config.rl_share, config.train_share, config.valid_share)
    cuts = [_cut(tables, round(sum(shares[: i + 1]), 9)) for i in range(len(shares))]
    found = [cut for cut in cuts if cut is not None]
    if len(found) < len(cuts):
        raise EmptyWindowError(
            "there are no usable decisions to cut windows from; see what `girl check` says of interactions, "
            "or give `windows.sft_end` and the other four ends"
        )
    return Windows(*found)


def _cut(tables: Tables, share: float) -> datetime | None:
    """The instant of a decision with nearest to `share` of all decisions before it; the earlier of two."""
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
    return None if row is None else row[0].astimezone(UTC)


# Decisions of a window, each with the time of its CV. Only keys and times go through the join; texts follow.
_DECISIONS = """
    SELECT i.job_seeker_id, i.job_id, i.matched, i.decided_at, v.updated_at
    FROM (SELECT * FROM interactions
          WHERE ($start::TIMESTAMPTZ IS NULL OR decided_at >= $start::TIMESTAMPTZ)
            AND ($end::TIMESTAMPTZ IS NULL OR decided_at < $end::TIMESTAMPTZ)) i
    ASOF JOIN (SELECT job_seeker_id, updated_at FROM job_seekers) v
      ON i.job_seeker_id = v.job_seeker_id AND i.decided_at > v.updated_at
"""

_SFT_PAIRS = f"""
    SELECT job_seeker_id, job_id, cv, jd, decided_at
    FROM ({_DECISIONS})
    JOIN job_seekers USING (job_seeker_id, updated_at)
    JOIN jobs USING (job_id)
    WHERE matched AND cv <> ''
    ORDER BY decided_at, job_seeker_id, job_id
"""

_PREFERENCE_PAIRS = f"""
    WITH decisions AS MATERIALIZED (
        SELECT job_seeker_id, updated_at, job_id, bool_or(matched) AS ever_matched,
               coalesce(min(decided_at) FILTER (matched), min(decided_at)) AS first_decided_at
        FROM ({_DECISIONS}) GROUP BY ALL
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
    FROM (SELECT DISTINCT job_seeker_id, updated_at FROM ({_DECISIONS}))
    JOIN job_seekers USING (job_seeker_id, updated_at)
    WHERE cv <> ''
      AND job_seeker_id NOT IN (SELECT job_seeker_id FROM interactions WHERE decided_at < $start)
    ORDER BY job_seeker_id, updated_at
"""

_TRAINING_DATA = {"sft": _SFT_PAIRS, "reward": _PREFERENCE_PAIRS, "rl": _RL_CVS}

_RANKED = """
    SELECT job_seeker_id, job_id, matched, decided_at,
           job_seeker_id NOT IN (SELECT job_seeker_id FROM interactions
                                 WHERE decided_at >= $train_start AND decided_at < $train_end) AS is_cold_start,
           {alive} AS alive
    FROM interactions
    WHERE decided_at >= $start AND ($end::TIMESTAMPTZ IS NULL OR decided_at < $end::TIMESTAMPTZ)
    ORDER BY decided_at, job_seeker_id, job_id
"""


def sft_pairs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Matched decisions of the SFT window with both texts; those with a blank CV are left out.

    Returns:
        job_seeker_id, job_id, cv, jd, decided_at; by decided_at and ids.
    Raises:
        EmptyWindowError: there are none.
    """
    pairs = _frame(tables, _SFT_PAIRS, windows, "sft")
    if pairs.is_empty():
        raise _empty(windows, "sft", "no matched decision with a CV")
    return pairs


def preference_pairs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Every (matched, mismatched) pair of jobs that one CV version met in the reward window, once.

    A job that the version both matched and mismatched counts as matched. Pairs of equal JDs are left out,
    and so are blank CVs. `decided_at` is when both decisions were known.

    Returns:
        job_seeker_id, cv, chosen, rejected, decided_at; possibly no rows. By decided_at and ids.
    """
    return _frame(tables, _PREFERENCE_PAIRS, windows, "reward")


def rl_cvs(tables: Tables, windows: Windows) -> pl.DataFrame:
    """CV versions behind the RL window's decisions, of seekers with no decision in the windows before.

    Returns:
        job_seeker_id, cv, updated_at, cv_hash; none blank, possibly no rows. By id and time.
    """
    return _frame(tables, _RL_CVS, windows, "rl")


def ranking_split(tables: Tables, windows: Windows) -> RankingSplit:
    """Decisions of the train, valid and test windows.

    Those of people who were erased are left out, as nothing can be joined to them, and counted in the log.

    Raises:
        EmptyWindowError: one of the three has no decisions, or only matched or only mismatched ones.
    """
    frames = []
    alive, n_left_out = tables.erased.condition([JOB_SEEKER_ID]), 0
    for window in RankingSplit._fields:
        frame = _frame(tables, _RANKED.format(alive=alive), windows, window, _train_bounds(windows))
        n_left_out += int((~frame["alive"]).sum())
        frame = frame.filter("alive").drop("alive")
        if frame.is_empty():
            raise _empty(windows, window, "no decisions")
        if frame["matched"].n_unique() == 1:
            kind = "matched" if frame["matched"][0] else "mismatched"
            raise _empty(windows, window, f"only {kind} decisions ({frame.height}), and a ranker needs both kinds")
        frames.append(frame)
    if n_left_out:
        _log.warning("%d decisions of erased job seekers are left out of the ranking windows", n_left_out)
    return RankingSplit(*frames)


def summarize(tables: Tables, windows: Windows) -> Summary:
    """Counts of every window; an empty one shows zeros."""
    return Summary(tuple(_summarize(tables, windows, window) for window in WINDOWS))


def _summarize(tables: Tables, windows: Windows, window: str) -> WindowSummary:
    bounds = windows.bounds(window)
    is_ranked = window in ("valid", "test")
    cold = "job_seeker_id NOT IN (SELECT job_seeker_id FROM ranked)" if is_ranked else "false"
    counts = tables.connection.execute(
        f"""
        WITH ranked AS (SELECT job_seeker_id FROM interactions
                        WHERE decided_at >= $train_start AND decided_at < $train_end)
        SELECT count(*), count(*) FILTER (matched), count(DISTINCT job_seeker_id), count(*) FILTER (is_cold),
               count(DISTINCT job_seeker_id) FILTER (is_cold)
        FROM (SELECT *, {cold} AS is_cold FROM ({_DECISIONS}))
        """,
        {**bounds._asdict(), **_train_bounds(windows)},
    ).fetchone()
    assert counts is not None
    n_decisions, n_matched, n_seekers, n_cold_decisions, n_cold_seekers = counts
    n_usable = n_decisions
    if window in _TRAINING_DATA:
        query = f"SELECT count(*) FROM ({_TRAINING_DATA[window]})"
        usable = tables.connection.execute(query, bounds._asdict()).fetchone()
        assert usable is not None
        n_usable = usable[0]
    return WindowSummary(
        window=window,
        start=bounds.start,
        end=bounds.end,
        n_decisions=n_decisions,
        n_matched=n_matched,
        n_seekers=n_seekers,
        n_usable=n_usable,
        n_cold_decisions=n_cold_decisions,
        n_cold_seekers=n_cold_seekers,
    )


def _train_bounds(windows: Windows) -> dict[str, datetime]:
    return {"train_start": windows.rl_end, "train_end": windows.train_end}


def _frame(
    tables: Tables, query: str, windows: Windows, window: str, extra: dict[str, datetime] | None = None
) -> pl.DataFrame:
    return tables.connection.execute(query, {**windows.bounds(window)._asdict(), **(extra or {})}).pl()


def _empty(windows: Windows, window: str, problem: str) -> EmptyWindowError:
    start, end = windows.bounds(window)
    i = WINDOWS.index(window)
    keys = [f"`windows.{name}_end`" for name in WINDOWS[max(i - 1, 0) : min(i + 1, len(windows))]]
    share = f"`windows.{WINDOWS[i if i < len(windows) else i - 1]}_share`"
    return EmptyWindowError(
        f"the {window} window, from {start.isoformat() if start else 'the start'} to "
        f"{end.isoformat() if end else 'the end'}, has {problem}; change {' or '.join(keys)} or {share}; "
        f"`girl check` counts every window"
    )
