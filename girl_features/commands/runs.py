"""Commands that show earlier work: runs, runs show, history."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from girl_features.commands import common

runs_app = typer.Typer(help="List the runs of the batch job, or show one.", invoke_without_command=True)


@runs_app.callback()
def runs(
    context: typer.Context,
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """List the runs of the batch job, oldest first."""
    if context.invoked_subcommand is not None:
        return
    from girl_features.batch.run_log import RunLog

    records = RunLog(common.load(config, set_values).runs_dir).records()
    rows = [record.model_dump(mode="json", exclude={"config"}) for record in records]

    def show() -> None:
        for record in records:
            duration = f"{record.seconds:,.0f} s" if record.seconds is not None else "-"
            totals = ", ".join(
                f"{record.totals[name]:,} {label}"
                for name, label in (("n_generated", "generated"), ("n_failed", "failed"), ("n_new_tokens", "tokens"))
                if name in record.totals
            )
            error = f" ({record.error})" if record.error else ""
            typer.echo(
                f"{record.id}  {record.started_at:%Y-%m-%d %H:%M}  {record.contract}  {record.engine}  "
                f"{record.status}{error}  {duration}  {totals}"
            )
        if not records:
            typer.echo("no run yet; `girl materialize` starts the first")

    common.emit(rows, json_file, show)


@runs_app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="Of `girl runs`; its first characters, or `last`.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """Show one run: its totals, what the store holds of it, and its resolved config."""
    import yaml

    from girl_features.batch.lineage import rows_of_run
    from girl_features.batch.run_log import RunLog
    from girl_features.store.parts import PartsStore

    resolved = common.load(config, set_values)
    record = RunLog(resolved.runs_dir).find(run_id)
    stored = rows_of_run(PartsStore(resolved.store_dir), record.contract, record.id)._asdict()
    facts = record.model_dump(mode="json", exclude={"config", "totals"})

    def show() -> None:
        common.print_mapping(f"Run {record.id}", facts)
        common.print_mapping("Totals", record.totals)
        common.print_mapping("Rows of this run in the store", stored)
        typer.echo("Config")
        typer.echo(yaml.safe_dump(record.config, sort_keys=False))

    common.emit({**record.model_dump(mode="json"), "stored": stored}, json_file, show)


def history(
    seeker: Annotated[str, typer.Argument(help="Job seeker id.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """Show every JD that a job seeker ever had: contract, time, status, seeds and texts."""
    from girl_features.batch.lineage import history
    from girl_features.store.parts import PartsStore

    store = PartsStore(common.load(config, set_values).store_dir)
    rows = history(store, seeker)
    is_empty = not rows and not store.contracts()
    common.emit(rows, json_file, lambda: _show_history(seeker, rows, is_empty))
    if not rows:
        raise typer.Exit(1)


def _show_history(seeker: str, rows: list[dict[str, Any]], is_empty: bool) -> None:
    from girl_features.input.sources import printable

    for row in rows:
        typer.echo(
            f"{row['created_timestamp']:%Y-%m-%d %H:%M}  {row['contract']}  {row['status']}  "
            f"CV of {row['updated_at']:%Y-%m-%d %H:%M} ({row['cv_hash']})  {row.get('engine', '-')}"
        )
        for text in row.get("generated_jds", []):
            typer.echo("".join(c if c.isprintable() or c == "\n" else printable(c) for c in text))
            typer.echo("")
    if not rows:
        advice = "; nothing is stored yet: `girl materialize` makes the first JDs" if is_empty else ""
        typer.echo(f"no JD of {printable(seeker)!r} in the store, under any contract{advice}")
