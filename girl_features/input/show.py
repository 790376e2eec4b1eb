"""What people see of a check: tables for the terminal. Text from the data is printed as text, never as markup."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from girl_features.input.report import CheckReport
from girl_features.input.splits import Summary

SHOWN_OF_EACH = 3  # rejections printed for each table and reason; --json lists more


def print_check(report: CheckReport, windows: Summary) -> None:
    """Print what was read and rejected, the notes, and the time windows."""
    console = Console()
    tables = Table("table", "read", "kept", "rejected", title="Input", title_justify="left")
    for name, counts in report.tables.items():
        reasons = ", ".join(f"{reason} {n}" for reason, n in counts.rejected.items()) or "none"
        tables.add_row(name, f"{counts.n_read:,}", f"{counts.n_kept:,}", reasons)
    console.print(tables)
    for note in report.notes:
        console.print(Text(f"note: {note.table}: {note.message} ({note.n_rows:,} rows)"))
    shown: Counter[tuple[str, str]] = Counter()
    for rejection in report.rejections:
        shown[rejection.table, rejection.reason] += 1
        if shown[rejection.table, rejection.reason] > SHOWN_OF_EACH:
            continue
        place = f"{rejection.table} row {rejection.row}" + (
            f" of {Path(rejection.file).name}" if rejection.file else ""
        )
        console.print(Text(f"rejected: {place}: {rejection.reason}: {rejection.detail} (id {rejection.shown_id})"))
    if report.n_rejected > SHOWN_OF_EACH:
        console.print(f"{report.n_rejected:,} rows rejected in all; --json FILE lists more of them")
    console.print(_windows_table(windows))


def _windows_table(windows: Summary) -> Table:
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
        cold = f"{window.n_cold_decisions:,}"
        table.add_row(
            window.window,
            _day(window.start),
            _day(window.end),
            f"{window.n_decisions:,}",
            f"{window.n_matched:,}",
            f"{window.n_seekers:,}",
            f"{window.n_usable:,}",
            cold if window.window in ("valid", "test") else "",
        )
    return table


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"
