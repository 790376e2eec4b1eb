"""Commands that ask whether it helps: experiment run, ground, judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.commands import common
from girl_features.commands.stopping import stop_on_signal

if TYPE_CHECKING:
    from girl_features.lab.experiment.rows import ExperimentSteps

experiment_app = typer.Typer(help="Rows x predictors x data x seeds, with verdicts.", no_args_is_help=True)


@experiment_app.command("run")
def run(
    file: Annotated[Path, typer.Argument(help="An experiment's YAML, or a girl.yaml for the default experiment.")],
    data: Annotated[list[str] | None, typer.Option(help="Only this data set of FILE. Repeatable.")] = None,
    markdown: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the results page here.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that fit rankers; default: the cores.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; a sample market is written, nothing else.")
    ] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Train, materialize, fit and compare all that FILE asks for; what is done already is not done again."""
    from girl_features.errors import InterruptedRunError
    from girl_features.lab.experiment.config import load_experiment
    from girl_features.lab.experiment.plan import plan_experiment, plan_lines
    from girl_features.lab.experiment.prepare import prepare
    from girl_features.lab.experiment.run import run_experiment
    from girl_features.machine import n_cores

    config = load_experiment(file).only(data)
    n_workers = jobs or n_cores()
    if dry_run:
        plans = plan_experiment(config)
        result = [plan._asdict() for plan in plans]
        common.emit(result, json_file, lambda: typer.echo("\n".join(plan_lines(config, plans, n_workers))))
        return
    steps = _experiment_steps()
    with stop_on_signal("this step of training, generating or fitting", f"girl experiment run {file}") as stop:
        try:
            results = run_experiment(
                config,
                steps,
                lambda name: prepare(name, config, steps, stop.is_made),
                n_workers=n_workers,
                should_stop=stop.is_made,
            )
        except InterruptedRunError:
            raise typer.Exit(stop.exit_code) from None
    command = " ".join([f"girl experiment run {file}", *(f"--data {name}" for name in data or ())])
    _report(results, steps, command, markdown, json_file)


def _report(results: Any, steps: ExperimentSteps, command: str, markdown: Path | None, json_file: Path | None) -> None:
    from datetime import UTC, datetime

    from girl_features.lab.experiment.report import make_extras, to_json, write_experiment
    from girl_features.lab.experiment.summary import verdict_line
    from girl_features.machine import machine_description

    folder = results.config.workspace / results.config.name
    page = markdown or folder / "evidence.md"
    command += f" --markdown {markdown}" if markdown else ""
    today = datetime.now(UTC).date()
    extras = {data.prepared.name: make_extras(data, steps) for data in results.data}
    blocks = {name: sections.blocks for name, sections in extras.items()}
    write_experiment(results, page, command=command, machine=machine_description(), date=today, extras=blocks)

    def show() -> None:
        for data in results.data:
            for claim in data.claims:
                if claim.slice == "all":
                    typer.echo(verdict_line(claim).replace("**", ""))
        typer.echo(f"{results.n_fits} fits made, {results.n_kept} kept from before; page: {page}; tables: {folder}")

    values = {"extras": {name: sections.values for name, sections in extras.items()}}
    common.emit(to_json(results) | values, json_file, show)


def _experiment_steps() -> ExperimentSteps:
    from girl_features.encoder import SentenceTransformerEncoder
    from girl_features.errors import require
    from girl_features.lab.experiment.rows import ExperimentSteps

    rankers, baselines = "girl_features.integrations.rankers", "girl_features.lab.baselines"
    return ExperimentSteps(
        make_ranker=require(f"{rankers}.registry", "rank").make_ranker,
        make_baseline=require(f"{baselines}.registry", "rank").make_baseline,
        train=_train,
        tune_encoder=require("girl_features.trainers.text_encoder", "rank").tune_encoder,
        open_encoder=SentenceTransformerEncoder,
        open_fit_scorer=_open_fit_scorer,
        fit_recipe=require("girl_features.generator.fit", "generate").FIT_RECIPE,
        language_model_encoder=require(f"{baselines}.language_model", "rank").LanguageModelEncoder,
    )


def _open_fit_scorer(*arguments: Any, **limits: Any) -> Any:
    from girl_features.errors import require

    return require("girl_features.generator.fit", "generate").FitScorer(*arguments, **limits)


def _train(stage: str, *arguments: Any) -> Path:
    from girl_features.commands.train import train_function

    return train_function(stage)(*arguments)


def ground(
    seekers: Annotated[
        list[str] | None, typer.Argument(help="Job seeker ids; none: measure on the test window.")
    ] = None,
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    method: Annotated[str, typer.Option(help="For seekers: distance, matcher or reward.")] = "matcher",
    k: Annotated[int, typer.Option(min=1, help="Number of jobs for each seeker.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on this many queries, drawn at random.")] = None,
    shortlist: Annotated[int, typer.Option(min=1, help="Jobs taken by distance, which the other methods order.")] = 100,
    many_hires: Annotated[bool, typer.Option(help="A job stays open after its first match.")] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Find real jobs by generated JDs: for some seekers, or to measure how often the matched job is found."""
    from girl_features.errors import ConfigError
    from girl_features.lab.grounding.report import grounding_table, rows_as_json
    from girl_features.lab.grounding.run import ground_seekers, measure_run

    resolved = common.load(config, set_values)
    if method not in ("distance", "matcher", "reward"):
        raise ConfigError(f"--method is {method!r}; choose distance, matcher or reward")
    if seekers:
        jobs = ground_seekers(resolved, common.ranker_factory(), seekers, k, method)

        def show_jobs() -> None:
            for job in jobs:
                head = " ".join(job.jd.split())[:70]
                typer.echo(f"{job.job_seeker_id}  {job.rank:3d}  {job.score:.3f}  {job.job_id}  {head}")

        common.emit([job._asdict() for job in jobs], json_file, show_jobs)
        return
    rows = measure_run(
        resolved, common.ranker_factory(), size=shortlist, limit=limit, taken_by_first_match=not many_hires
    )

    def show() -> None:
        header, lines = grounding_table(rows)
        typer.echo(f"{rows[0].n_queries} matched decisions of {rows[0].n_seekers} seekers, test window")
        widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
        for line in [header, *lines]:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

    common.emit(rows_as_json(rows), json_file, show)


def judge(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    left: Annotated[str, typer.Option(help="Generator, named as in `girl evaluate`.")] = "girl",
    right: Annotated[str, typer.Option(help="Generator it is compared with.")] = "girl-sft",
    n: Annotated[int, typer.Option("-n", min=1, help="CVs, of seekers no generator has met.")] = 200,
    model: Annotated[str | None, typer.Option(help="A causal LM on this machine as judge, by folder or name.")] = None,
    probe: Annotated[int, typer.Option(min=0, help="Also try orders to the judge in so many left texts.")] = 0,
    json_file: common.JsonOption = None,
) -> None:
    """Compare the JDs of two generators by an LLM judge (GIRL_JUDGE_URL, _MODEL, _KEY), or measure them without."""
    from girl_features.lab.judge import run as judge_run
    from girl_features.lab.judge.verdicts import as_json, judge_pairs

    resolved = common.load(config, set_values)
    sides = judge_run.read_sides(resolved, left, right, n)
    chat = judge_run.choose_chat(model, resolved.workspace / "judge")
    if chat is None:
        measures = judge_run.run_measures(resolved, sides)
        result = {
            "judge": None,
            "label": "reference-free measures; no judge was asked",
            "n": measures.n,
            "measures": [measure._asdict() for measure in measures.measures],
            "reward_model": measures.reward_model,
        }
        common.emit(result, json_file, lambda: typer.echo("\n".join(judge_run.measures_lines(measures, sides))))
        return
    report = judge_pairs(chat, sides.pairs, probe=probe)
    asked = {"replies_asked": chat.n_asked, "replies_kept": chat.n_kept}
    common.emit(as_json(report) | asked, json_file, lambda: typer.echo("\n".join(judge_run.judge_lines(report, sides))))
