"""What reading the input tables found: counts, rejected rows with their reasons, and notes."""

from __future__ import annotations

from typing import Any, NamedTuple

MAX_LISTED = 20  # rejections listed for each table and reason; all of them are counted


class Rejection(NamedTuple):
    """One row left out."""

    table: str
    file: str | None  # None for a query
    row: int  # from 1, of the file or of the query's result; a CSV header is not counted
    shown_id: str  # escaped and cut short
    reason: str
    detail: str


class Note(NamedTuple):
    """Something about a table worth knowing that rejects no row."""

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
    """What reading the tables found."""

    tables: dict[str, TableReport]
    rejections: list[Rejection]  # the first MAX_LISTED of each table and reason
    notes: list[Note]

    @property
    def n_rejected(self) -> int:
        """Rows left out, over all tables; duplicates count."""
        return sum(sum(table.rejected.values()) for table in self.tables.values())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and lists, for JSON."""
        return {
            "tables": {name: table._asdict() for name, table in self.tables.items()},
            "n_rejected": self.n_rejected,
            "rejections": [rejection._asdict() for rejection in self.rejections],
            "notes": [note._asdict() for note in self.notes],
        }
