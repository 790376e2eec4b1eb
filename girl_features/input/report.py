"""Report on the input tables: counts, rejected rows with their reasons, and notes."""

from __future__ import annotations

from typing import Any, NamedTuple

MAX_LISTED = 20  # rejections listed for each table and reason; the counts include all


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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts and lists, for JSON."""
        return {
            "tables": {name: table._asdict() for name, table in self.tables.items()},
            "n_rejected": self.n_rejected,
            "rejections": [rejection._asdict() for rejection in self.rejections],
            "notes": [note._asdict() for note in self.notes],
        }
