"""Commands that make features and hand them out: materialize, contracts, join, evaluate."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from girl_features.commands import common
from girl_features.commands.stopping import stop_on_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from girl_features.batch.run import MaterializeReport
    from girl_features.config import GirlConfig
    from girl_features.evaluation.controls.columns import TunedCosines


def materialize(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing and estimate it; store nothing.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="CVs generated for the estimate of --dry-run.")] = 16,
    cost_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of this machine, for the estimate of --dry-run.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try CVs again that no earlier run found a good JD for.")
    ] = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Give up an unfinished run whose config was another.")
    ] = False,
    on: Annotated[
        Literal["local", "ray"], typer.Option(help="This process, or Ray workers (see `ray` in girl.yaml).")
    ] = "local",
    anyway: common.AnywayOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Generate, encode and store what is missing, then publish it to Feast's online store."""
    from girl_features.batch.quality import last_verdict
    from girl_features.progress import announce

    resolved = common.load(config, set_values)
    if dry_run:
        if on == "ray":
            raise typer.BadParameter("--dry-run plans and samples on this machine; leave --on ray out")
        _show_plan(resolved, sample, cost_per_hour, retry_failed, json_file)
        return
    words = ["girl", "materialize", "--config", str(config)]
    words += [word for value in set_values or [] for word in ("--set", value)]
    words += ["--retry-failed"] if retry_failed else []
    words += ["--on", "ray"] if on == "ray" else []
    words += ["--anyway"] if anyway else []
    with stop_on_signal(f"this chunk of {resolved.chunk_size} CVs", shlex.join(words)) as stop:
        announce("loading torch and the models' code")
        run = _batch_function(on)
        report = run(resolved, should_stop=stop.is_made, retry_failed=retry_failed, new_run=new_run, anyway=anyway)

    def show() -> None:
        common.print_mapping("Materialized", vars(report))
        if anyway:
            common.print_verdict(last_verdict(resolved, report.contract))

    common.emit(vars(report), json_file, show)
    if report.n_unfinished:
        typer.echo(_unfinished_text(report, resolved.sampling.max_new_tokens), err=True)
    if stop.is_made():
        raise typer.Exit(stop.exit_code)
    if report.n_failed:
        raise typer.Exit(1)


def _unfinished_text(report: MaterializeReport, max_new_tokens: int) -> str:
    n_without = report.failures.get("unfinished", 0)
    return (
        f"{report.n_unfinished} JDs are not stored: two draws of each were cut at sampling.max_new_tokens "
        f"({max_new_tokens}); {n_without} CVs have no JD for that reason. Raise it and run `girl materialize` again: "
        f"that makes a new contract, so JDs are generated for all CVs"
    )


def _batch_function(on: str) -> Callable[..., MaterializeReport]:
    if on == "ray":
        from girl_features.integrations.ray_data import run_on_ray

        return run_on_ray
    from girl_features.batch.local import materialize

    return materialize


def _show_plan(
    config: GirlConfig, sample: int, cost_per_hour: float | None, retry_failed: bool, json_file: Path | None
) -> None:
    from girl_features.batch.estimate import dry_run
    from girl_features.batch.quality import last_verdict

    plan, estimate = dry_run(config, n_sample=sample, cost_per_hour=cost_per_hour, retry_failed=retry_failed)
    verdict = last_verdict(config, plan.contract)
    counts = {
        "contract": plan.contract,
        **plan.generation._asdict(),
        "n_cv_vectors": plan.n_cv_vectors,
        "n_jd_vectors": plan.n_jd_vectors,
        "plan_seconds": plan.seconds,
    }

    def show() -> None:
        common.print_mapping("Plan (nothing was stored)", counts)
        if estimate is not None:
            common.print_mapping(f"Estimate, from {estimate.n_sampled} CVs generated here", estimate._asdict())
        common.print_verdict(verdict)

    result = {**counts, "estimate": None if estimate is None else estimate._asdict()}
    common.emit({**result, "gate": None if verdict is None else verdict.to_json()}, json_file, show)


def contracts(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """List the feature contracts in the store, oldest first."""
    from girl_features.store.parts import PartsStore

    stored = PartsStore(common.load(config, set_values).store_dir).contracts()
    rows = [{"contract": name, **contract.model_dump(mode="json")} for name, contract in stored.items()]

    def show() -> None:
        for fingerprint, contract in stored.items():
            sampling = f"n={contract.sampling.n}, temperature {contract.sampling.temperature:g}"
            typer.echo(
                f"{fingerprint}  {contract.generator}, {sampling}, {contract.encoder.name}, "
                f"trained until {contract.trained_until:%Y-%m-%d}"
            )
        if not stored:
            typer.echo("no contract yet; `girl materialize` makes the first")

    common.emit(rows, json_file, show)


def join(
    pairs: Annotated[
        Path, typer.Argument(help="Parquet, CSV or TSV of job_seeker_id, job_id, decided_at; other columns kept.")
    ],
    out: Annotated[
        Path, typer.Argument(dir_okay=False, help="File to write: the same rows with the girl_* columns beside them.")
    ],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    contract: common.ContractOption = None,
    reduction: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the fitted projection; default: in the workspace."),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the projection on these rows: the training rows, once.")
    ] = False,
    as_served: Annotated[bool, typer.Option(help="Only rows that were already written at decision time.")] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Your name of a column: --column job_id=vacancy. Default: as in tables.interactions.columns."
        ),
    ] = None,
    quoting: Annotated[
        Literal["csv", "none"] | None,
        typer.Option(help="Of a CSV or TSV: `none` if a database wrote it. Default: as in tables.interactions."),
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(help="Of times that are texts or numbers: epoch_s, %d.%m.%Y. Default: as in tables.interactions."),
    ] = None,
    json_file: common.JsonOption = None,
) -> None:
    """Join generated-JD features to a ranker's training table, point in time."""
    from girl_features.integrations.join_table import join_table
    from girl_features.integrations.pair_keys import PairFormat

    resolved = common.load(config, set_values)
    decisions = resolved.tables.interactions
    features = common.chosen_contract(resolved.store_dir, contract)
    summary = join_table(
        pairs,
        out,
        repo=resolved.feast_repo,
        contract=features,
        reduction=reduction or resolved.workspace / "reductions" / features.fingerprint,
        fit=fit,
        as_served=as_served,
        columns=_column_names(column or []),
        usual_columns=decisions.columns,
        pair_format=PairFormat(quoting or decisions.quoting, time_format or decisions.time_format, decisions.time_zone),
    )
    result = summary._asdict()
    shown = {name: value for name, value in result.items() if name != "warnings"}
    common.emit(result, json_file, lambda: common.print_mapping(f"Wrote {out}", shown))
    for warning in summary.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _column_names(options: list[str]) -> dict[str, str]:
    from girl_features.errors import ConfigError
    from girl_features.integrations.pair_keys import KEYS

    names = {}
    for option in options:
        key, _, name = option.partition("=")
        if key not in KEYS or not name:
            raise ConfigError(f"--column takes KEY=YOUR_COLUMN, where KEY is {', '.join(KEYS)}; found {option!r}")
        names[key] = name
    return names


def evaluate(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
    markdown: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write a results page here.")] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Let every row, base included, read the controls too, so that gains are over them."
        ),
    ] = False,
) -> None:
    """Compare rankers with and without the generated JD: AUC and LogLoss with paired intervals.

    The controls are simple scores that any feature of a language model has to beat: shared words, style, popularity and
    the cosine of a tuned text encoder. --controls takes all of them and shows how each ranks alone;
    `--set evaluate.controls=[lexical,style]` takes some.
    """
    from functools import partial

    from girl_features.evaluation.report import print_comparison
    from girl_features.evaluation.run import run_evaluate, write_results_page
    from girl_features.tiers import stand_ins_of

    if markdown is not None and markdown.suffix == ".png":
        raise typer.BadParameter("the page's picture gets that name; end it in .md", param_hint="--markdown")
    all_controls = ["evaluate.controls=[lexical,style,popularity,tuned]"] if controls else []
    resolved = common.load(config, [*all_controls, *(set_values or [])])
    stand_ins = stand_ins_of(resolved.lookup, resolved.students_dir)
    make_ranker = partial(common.ranker_factory(), tier_dropout=resolved.ranker.tier_dropout, stand_ins=stand_ins)
    evaluation = run_evaluate(resolved, make_ranker, _tuned_cosines(resolved))
    if markdown is not None:
        write_results_page(
            markdown, evaluation, command=f"girl evaluate --config {config}{' --controls' if controls else ''}"
        )
    common.emit(evaluation.comparison.to_json(), json_file, lambda: print_comparison(evaluation.comparison))


def _tuned_cosines(config: GirlConfig) -> TunedCosines | None:
    """Return the function that tunes an encoder, if `evaluate.controls` asks for it."""
    from girl_features.errors import require

    if "tuned" not in config.evaluate.controls:
        return None
    trainer = require("girl_features.trainers.text_encoder", "generate")
    made: TunedCosines = trainer.tuned_pair_cosines(
        config.encoder.name, config.encoders_dir, config.encoder_tuning, config.encoder.batch_size
    )
    return made
