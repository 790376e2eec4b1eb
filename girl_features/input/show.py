"""Terminal output of `girl check`. Text from the data is printed as plain text, never as markup."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from girl_features.input.report import CheckReport, Rejection
from girl_features.input.summary import WindowsSummary

MAX_PRINTED_REJECTIONS = 3  # for each table and reason; --json lists more


def print_check(report: CheckReport, windows: WindowsSummary) -> None:
    """Print the counts of read and rejected rows, the notes, and the time windows."""
    console = Console()
    tables = Table("table", "read", "kept", "rejected", title="Input", title_justify="left")
    for name, counts in report.tables.items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in counts.rejected.items()) or "none"
        tables.add_row(name, f"{counts.n_read:,}", f"{counts.n_kept:,}", reasons)
    console.print(tables)
    for note in report.notes:
        console.print(Text(f"note: {note.table}: {note.message} ({note.n_rows:,} rows)"))
    n_printed: Counter[tuple[str, str]] = Counter()
    for rejection in report.rejections:
        if n_printed[rejection.table, rejection.reason] < MAX_PRINTED_REJECTIONS:
            n_printed[rejection.table, rejection.reason] += 1
            console.print(_rejection_line(rejection))
    if report.n_rejected > MAX_PRINTED_REJECTIONS:
        console.print(f"{report.n_rejected:,} rows rejected in all; --json FILE lists more of them")
    console.print(_windows_table(windows))


def _rejection_line(rejection: Rejection) -> Text:
    place = f"{rejection.table} row {rejection.row}"
    if rejection.file:
        place += f" of {Path(rejection.file).name}"
    return Text(f"rejected: {place}: {rejection.reason}: {rejection.detail} (id {rejection.shown_id})")


def _windows_table(windows: WindowsSummary) -> Table:
    table = Table(
        "window",
        "from",
        "until",
        "decisions",
        "matched",
        "seekers",
        "usable",
        "cold",
        title="Windows",
        title_justify="left",
    )
    for window in windows.windows:
        has_cold_start = window.window in ("valid", "test")
        table.add_row(
            window.window,
            _day(window.start),
            _day(window.end),
            f"{window.n_decisions:,}",
            f"{window.n_matched:,}",
            f"{window.n_seekers:,}",
            f"{window.n_usable:,}",
            f"{window.n_cold_decisions:,}" if has_cold_start else "",
        )
    return table


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"
