"""The command check: the report on the tables comes first, whatever is wrong with them."""

from __future__ import annotations

from typing import Annotated

import typer

from girl_features.commands import common


def check(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    strict: Annotated[bool, typer.Option(help="Fail if any row is rejected.")] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Check the tables, list the rows that are rejected and why, and show the time windows."""
    from girl_features.commands.readers import cv_readers
    from girl_features.errors import DataError, EmptyWindowError, GirlError, RejectedRowsError
    from girl_features.input.report import print_check
    from girl_features.input.splits import cut_windows, summarize
    from girl_features.input.tables import inspect_tables
    from girl_features.input.text_report import inspect_texts

    resolved = common.load(config, [*(set_values or []), *(["strict=true"] if strict else [])])
    tables, unread = inspect_tables(resolved)
    error: GirlError | None = DataError("\n".join(map(str, unread))) if unread else None
    windows = None
    with tables:
        texts = inspect_texts(tables, resolved.tables, cv_readers(resolved))
        report = tables.report._replace(notes=[*tables.report.notes, *texts.notes()])
        if not unread:
            try:
                windows = summarize(tables, cut_windows(tables, resolved.windows))
            except EmptyWindowError as empty:
                error = empty
    if error is None and resolved.strict and report.n_rejected:
        error = RejectedRowsError(report.n_rejected_by_table, "the report lists them")
    result = {
        "tables": report.to_dict(),
        "windows": windows.to_dict() if windows else None,
        "texts": texts.to_dict(),
        "error": str(error) if error else None,
    }
    common.emit(result, json_file, lambda: print_check(report, windows))
    if error is not None:
        raise error
    if report.n_rejected:
        raise typer.Exit(1)
