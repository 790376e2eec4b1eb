"""Tables for people: the rows of a polars frame as a Markdown table or as a rich table."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from girl_features.errors import ConfigError
from girl_features.store.user_files import begins_with, make_way


class Column(NamedTuple):
    """How one column of a table is made from a frame."""

    heading: str
    name: str  # of the frame's column
    number_format: str = ""  # format specification, such as `+.4f`; columns that have one are aligned right
    upper_name: str = ""  # frame column of the upper end; set, the cells show an interval


def frame_of(rows: Iterable[Any]) -> pl.DataFrame:
    """Return dataclass instances as a frame, one row each."""
    return pl.DataFrame([asdict(row) for row in rows], infer_schema_length=None)


def markdown_table(frame: pl.DataFrame, columns: Sequence[Column] | None = None) -> str:
    """Return a Markdown table; without `columns`, every column of the frame under its own name."""
    columns = columns or [Column(name, name) for name in frame.columns]
    lines = [[column.heading for column in columns], ["---"] * len(columns)]
    lines += [[_cell_text(row, column) for column in columns] for row in frame.iter_rows(named=True)]
    return "\n".join("| " + " | ".join(inline(cell) for cell in line) + " |" for line in lines)


def rich_table(frame: pl.DataFrame, columns: Sequence[Column], title: str, notes: Sequence[str] = ()) -> Table:
    """Return a table for the terminal, with the notes below it. No text is read as markup."""
    caption = Text("\n".join(notes)) if notes else None
    layout: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = Table(title=Text(title, style="bold"), caption=caption, **layout)
    for column in columns:
        table.add_column(Text(column.heading), justify="right" if column.number_format else "left")
    for row in frame.iter_rows(named=True):
        table.add_row(*(Text(_cell_text(row, column)) for column in columns))
    return table


def value_text(value: object, number_format: str = "") -> str:
    """Return the value in this format, or an empty text for None."""
    return "" if value is None else format(value, number_format)


def interval_text(low: float | None, high: float | None, number_format: str) -> str:
    """Return both ends in this format, or an empty text where one is None."""
    if low is None or high is None:
        return ""
    return f"{low:{number_format}}, {high:{number_format}}"


def inline(text: str) -> str:
    """Return the text on one line, safe in a Markdown table cell, with HTML shown as typed."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def bullets(items: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {item}" for item in items)


def write_page(path: Path, template: Path, **blocks: str) -> None:
    """Fill `template` with Markdown blocks, and write the page; a block may be empty.

    Missing folders are made. A file there that is no page of this template is kept as NAME.bak-TIME.

    Raises:
        ConfigError: the page cannot be written.
    """
    how_to_read = Path(__file__).with_name("how_to_read.md").read_text(encoding="utf-8")
    empty = template.read_text(encoding="utf-8")
    text = empty.format(how_to_read=how_to_read, **blocks)
    title = empty.partition("{")[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path, lambda page: begins_with(page, title))
        path.write_text(re.sub(r"\n{3,}", "\n\n", text.rstrip()) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the page {path} cannot be written: {error.strerror or error}; name another file") from error


def _cell_text(row: Mapping[str, Any], column: Column) -> str:
    if column.upper_name:
        return interval_text(row[column.name], row[column.upper_name], column.number_format)
    return value_text(row[column.name], column.number_format)
