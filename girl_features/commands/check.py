"""The command check: the report on the tables comes first, whatever is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.commands import common

if TYPE_CHECKING:
    from datetime import datetime

    from girl_features.config import GirlConfig
    from girl_features.generator.bases.trial import Trial
    from girl_features.input.report import Note
    from girl_features.input.tables import Tables


def check(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    strict: Annotated[bool, typer.Option(help="Fail if any row is rejected.")] = False,
    base: Annotated[
        str | None, typer.Option(help="Instead, let this base model write a JD for the first CV, and say what it did.")
    ] = None,
    json_file: common.JsonOption = None,
) -> None:
    """Check the tables, list the rows that are rejected and why, and show the time windows."""
    if base is not None:
        if strict:
            raise typer.BadParameter("--strict is about rows, and --base tries a model: leave one of them out")
        _check_base(base, common.load(config, set_values), json_file)
        return
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
                cut = cut_windows(tables, resolved.windows)
                windows = summarize(tables, cut)
                report = report._replace(notes=[*report.notes, *_base_notes(resolved, tables, cut.rl_end)])
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


def _base_notes(config: GirlConfig, tables: Tables, rl_end: datetime) -> list[Note]:
    """Return a note on the decisions of the ranking windows that the base may have read of, if there are any."""
    from girl_features.generator.bases.cut_off import cut_off_note, stated_cut_off
    from girl_features.input.report import Note

    message, until = cut_off_note(config.generator, rl_end), stated_cut_off(config.generator)
    if message is None:
        return []
    query = "SELECT count(*) FROM interactions WHERE decided_at >= ? AND decided_at < ?"
    ((n_rows,),) = tables.connection.execute(query, [rl_end, until]).fetchall()
    return [Note("interactions", "known_to_base", message, n_rows)] if n_rows else []


def _check_base(base: str, config: GirlConfig, json_file: Path | None) -> None:
    """Let `base` write a JD for the first CV of the table, and show what was seen."""
    from girl_features.commands.readers import base_reader
    from girl_features.errors import DataError
    from girl_features.generator.bases.trial import try_base
    from girl_features.input.scripts import main_script
    from girl_features.input.tables import inspect_tables
    from girl_features.input.text_report import MAX_UNKNOWN, first_cv, read_texts

    tables, unread = inspect_tables(config)
    with tables:
        cv = first_cv(tables)
    if cv is None:
        raise DataError("\n".join(map(str, unread)) or "the table job_seekers has no CV to try the base with")
    trial = try_base(base, cv, config)
    script = main_script(cv)
    unknown = read_texts(base_reader(trial.folder, config), [cv]).unknown.get(script)
    is_known = None if unknown is None else unknown <= MAX_UNKNOWN
    result = {**trial._asdict(), "first_lines": trial.first_lines, "script": script, "script_known": is_known}
    common.emit(result, json_file, lambda: common.print_mapping(f"Base {base}", _in_words(trial, script, is_known)))


def _in_words(trial: Trial, script: str, is_known: bool | None) -> dict[str, Any]:
    tokens = ", ".join(f"{token} ({number})" for token, number in trial.stop_tokens.items())
    cut = ", CV cut" if trial.cv_truncated else ""
    lines = {f"JD, line {i}": line for i, line in enumerate(trial.first_lines, 1)}
    return {
        "folder": trial.folder,
        "family": f"{trial.family}, {trial.n_parameters:,} parameters",
        "reads at once": "any number of tokens" if trial.n_positions is None else f"{trial.n_positions:,} tokens",
        "ends a JD at": tokens,
        "template": trial.template,
        "system line": trial.system_line,
        "script of the CV": script + {True: ", known", False: ", not known to the tokenizer", None: ""}[is_known],
        "prompt": f"{trial.n_prompt_tokens} tokens{cut}",
        "engine": f"{trial.engine}, loaded in {trial.load_seconds:.1f} s",
        "JD": f"{trial.n_new_tokens} tokens in {trial.seconds:.1f} s",
        "finished": "yes" if trial.is_finished else "no: cut at sampling.max_new_tokens",
        "would be stored": "yes" if trial.defect is None else f"no: {trial.defect}",
        **lines,
    }
