"""Report on the input tables and the time windows: counts, rejected rows with their reasons, and notes."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from girl_features.schema import INPUT_COLUMNS

MAX_LISTED = 20  # rejections listed for each table and reason; the counts include all
_UNLIMITED = 100_000  # characters of a line, when the width of a table is measured
MAX_PRINTED_REJECTIONS = 3  # for each table and reason; --json lists more


class Rejection(NamedTuple):
    """One rejected row."""

    table: str
    file: str | None  # None for a query
    row: int  # number from 1, in the file or in the result of the query; a CSV header is not counted
    shown_id: str  # escaped and cut short
    reason: str
    detail: str


class Note(NamedTuple):
    """Information about rows of a table that were kept."""

    table: str
    code: str
    message: str
    n_rows: int


class TableReport(NamedTuple):
    """Counts of one table; `n_read` is `n_kept` plus all of `rejected`."""

    n_read: int
    n_kept: int
    rejected: dict[str, int]  # reason -> rows


class CheckReport(NamedTuple):
    """Counts, rejections and notes of the three input tables."""

    tables: dict[str, TableReport]
    rejections: list[Rejection]  # the first MAX_LISTED of each table and reason
    notes: list[Note]

    @property
    def n_rejected(self) -> int:
        """Number of rejected rows in all tables, duplicates included."""
        return sum(sum(table.rejected.values()) for table in self.tables.values())

    @property
    def n_rejected_by_table(self) -> dict[str, int]:
        """Number of rejected rows of each table that has any."""
        return {name: sum(table.rejected.values()) for name, table in self.tables.items() if table.rejected}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists, for JSON."""
        return {
            "tables": {name: table._asdict() for name, table in self.tables.items()},
            "n_rejected": self.n_rejected,
            "rejections": [rejection._asdict() for rejection in self.rejections],
            "notes": [note._asdict() for note in self.notes],
        }


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


def print_check(report: CheckReport, windows: WindowsSummary | None) -> None:
    """Print the counts of read and rejected rows, the notes, and the time windows if they could be cut.

    Lines are as long as they need to be: a terminal folds them, and a file keeps them whole.
    """
    console = Console(soft_wrap=True)
    tables = _plain_table("Input", ("table", "read", "kept", "rejected"))
    for name in INPUT_COLUMNS:
        counts = report.tables.get(name)
        if counts is None:
            tables.add_row(name, "not read", "", "")
            continue
        reasons = "\n".join(f"{reason} {n:,}" for reason, n in counts.rejected.items()) or "none"
        tables.add_row(name, f"{counts.n_read:,}", f"{counts.n_kept:,}", reasons)
    _print_table(console, tables)
    for note in report.notes:
        console.print(Text(f"note: {note.table}: {note.message} ({note.n_rows:,} rows)"))
    n_printed: Counter[tuple[str, str]] = Counter()
    for rejection in report.rejections:
        if n_printed[rejection.table, rejection.reason] < MAX_PRINTED_REJECTIONS:
            n_printed[rejection.table, rejection.reason] += 1
            console.print(_rejection_line(rejection))
    if report.n_rejected > MAX_PRINTED_REJECTIONS:
        console.print(f"{report.n_rejected:,} rows rejected in all; --json FILE lists more of them")
    if windows is not None:
        _print_table(console, _windows_table(windows))


def _rejection_line(rejection: Rejection) -> Text:
    place = f"{rejection.table} row {rejection.row}"
    if rejection.file:
        place += f" of {Path(rejection.file).name}"
    return Text(f"rejected: {place}: {rejection.reason}: {rejection.detail} (id {rejection.shown_id})")


def _windows_table(windows: WindowsSummary) -> Table:
    columns = ("window", "from", "until", "decisions", "matched", "seekers", "usable", "cold")
    table = _plain_table("Windows", columns)
    for window in windows.windows:
        counts = (window.n_decisions, window.n_matched, window.n_seekers, window.n_usable)
        cold = f"{window.n_cold_decisions:,}" if window.window in ("valid", "test") else ""
        table.add_row(window.window, _day(window.start), _day(window.end), *(f"{n:,}" for n in counts), cold)
    return table


def _plain_table(title: str, columns: tuple[str, ...]) -> Table:
    """Return an empty table, narrow enough for the windows to fit into 80 columns."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print `table` as wide as it is, because rich cuts the cells of a table that is wider than its console."""
    unlimited = console.options.update(max_width=_UNLIMITED)
    wide = Console(soft_wrap=True, width=max(console.width, Measurement.get(console, unlimited, table).maximum))
    wide.print(table)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"
