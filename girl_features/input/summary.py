"""Counts of every time window."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from girl_features.input.splits import DECISIONS_SQL, TRAINING_SQL, WINDOWS, Windows, train_bounds
from girl_features.input.tables import Tables


class WindowSummary(NamedTuple):
    """Counts of one window. Cold start is counted in valid and test only; elsewhere it is 0."""

    window: str
    start: datetime | None
    end: datetime | None
    n_decisions: int
    n_matched: int
    n_seekers: int
    n_usable: int  # SFT pairs, preference pairs, RL CVs or ranking decisions
    n_cold_decisions: int
    n_cold_seekers: int


class WindowsSummary(NamedTuple):
    """Counts of all windows, in time order."""

    windows: tuple[WindowSummary, ...]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the counts and ISO bounds of each window by its name, for JSON."""
        rows = {}
        for summary in self.windows:
            row = summary._asdict()
            for side in ("start", "end"):
                row[side] = row[side].isoformat() if row[side] is not None else None
            rows[row.pop("window")] = row
        return rows


def summarize(tables: Tables, windows: Windows) -> WindowsSummary:
    """Return the counts of every window; those of an empty window are 0."""
    return WindowsSummary(tuple(_summarize_window(tables, windows, window) for window in WINDOWS))


def _summarize_window(tables: Tables, windows: Windows, window: str) -> WindowSummary:
    bounds = windows.bounds(window)
    has_cold_start = window in ("valid", "test")
    is_cold = "job_seeker_id NOT IN (SELECT job_seeker_id FROM ranked)" if has_cold_start else "false"
    counts = tables.connection.execute(
        f"""
        WITH ranked AS (SELECT job_seeker_id FROM interactions
                        WHERE decided_at >= $train_start AND decided_at < $train_end)
        SELECT count(*), count(*) FILTER (matched), count(DISTINCT job_seeker_id), count(*) FILTER (is_cold),
               count(DISTINCT job_seeker_id) FILTER (is_cold)
        FROM (SELECT *, {is_cold} AS is_cold FROM ({DECISIONS_SQL}))
        """,
        {**bounds._asdict(), **train_bounds(windows)},
    ).fetchone()
    assert counts is not None
    n_decisions, n_matched, n_seekers, n_cold_decisions, n_cold_seekers = counts
    n_usable = n_decisions
    if window in TRAINING_SQL:
        usable = tables.connection.execute(
            f"SELECT count(*) FROM ({TRAINING_SQL[window]})", bounds._asdict()
        ).fetchone()
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
