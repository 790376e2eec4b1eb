"""The `girl` command: arguments in, one call, a short summary out.

Results go to stdout, logs and progress to stderr. Exit 0 for success, 1 if some rows failed, 2 for bad
arguments or input. Heavy imports sit inside the commands, so that `girl --help` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.errors import GirlError

if TYPE_CHECKING:
    from girl_features.config import GirlConfig

app = typer.Typer(
    help="Generated job descriptions as job-seeker features, in a Feast store on DuckDB.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(help="Train the generator, stage by stage.", no_args_is_help=True)
app.add_typer(train_app, name="train")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The girl.yaml to use.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set sampling.n=4. Repeatable.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON here ('-' for stdout).")]
ForceOption = Annotated[bool, typer.Option(help="Train again even if these inputs were trained before.")]
ResumeOption = Annotated[bool, typer.Option(help="Go on from the checkpoint of an interrupted PPO run, or start anew.")]
PaperOption = Annotated[
    bool, typer.Option("--paper-literal", help="PPO as the paper prints it, which tends to blow up: see docs/adr/0009.")
]
PAPER_LITERAL = ("ppo.kl_penalty=paper_kl", "ppo.ratio=frozen", "ppo.advantage=plain", "ppo.target_kl=null")
_STAGES = {"sft": "Generator, stage SFT", "reward": "Reward model", "ppo": "Generator, stage PPO"}
_STAGE_MODULES = {
    "sft": "girl_features.trainers.sft",
    "reward": "girl_features.trainers.reward",
    "ppo": "girl_features.trainers.rl",
}
DEFAULT_CONFIG = Path("girl.yaml")


def main() -> None:
    """Console entry point: our own errors become one line and exit code 2."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("FEAST_USAGE", "False")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's share is small; its threads would fight torch's
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, about releases we do not allow yet
    try:
        app()
    except GirlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _version(show: bool) -> None:
    if show:
        from girl_features import __version__

        typer.echo(f"girl-features {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where the Feast repo and girl.yaml go.")],
    project: Annotated[str, typer.Option(help="Feast project: a-z, 0-9 and _.")] = "girl",
    force: Annotated[bool, typer.Option(help="Overwrite files that differ.")] = False,
) -> None:
    """Write a girl.yaml and a Feast repo that `feast apply` takes as it stands."""
    from girl_features.init_repo import init_repo

    written = init_repo(folder, store_dir=folder / ".girl" / "store", project=project, force=force)
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(f"next: point `tables:` in {folder / 'girl.yaml'} at your data, then `girl check`")


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where the three tables go.")],
    seekers: Annotated[int, typer.Option(min=1, help="How many job seekers.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything drawn.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace tables of these names in the folder.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Write a simulated market: seekers, jobs and recruiters' decisions, with a known truth planted in it."""
    from girl_features.progress import Progress
    from girl_features.sample import write_sample

    with Progress("sample", seekers, "seekers") as progress:
        summary = write_sample(folder, n_seekers=seekers, seed=seed, progress=progress.reach, overwrite=overwrite)
    result = summary._asdict()
    _emit(result, json_file, lambda: _print_mapping(f"Simulated market in {folder}", result))


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    strict: Annotated[bool, typer.Option(help="Fail if any row is rejected.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Validate the tables, list what is rejected and why, and show the time windows."""
    from girl_features.pipeline import open_tables, windows_of
    from girl_features.show import print_check
    from girl_features.splits import summarize

    resolved = _load(config, [*(set_values or []), *(["strict=true"] if strict else [])])
    with open_tables(resolved) as tables:
        report = tables.report
        windows = summarize(tables, windows_of(resolved, tables))
    result = {"tables": report.to_dict(), "windows": windows.to_dict()}
    _emit(result, json_file, lambda: print_check(report, windows))
    if report.n_rejected:
        raise typer.Exit(1)


@train_app.command("sft")
def train_sft_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Stage 1: fine-tune the generator on matched CV-JD pairs of the SFT window (TRL's SFTTrainer)."""
    _train(config, set_values, ("sft",), force, json_file)


@train_app.command("reward")
def train_reward_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    json_file: JsonOption = None,
) -> None:
    """Stage 2: train the reward model on matched and mismatched JDs of the reward window (TRL's RewardTrainer)."""
    _train(config, set_values, ("reward",), force, json_file)


@train_app.command("ppo")
def train_ppo_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    algo: Annotated[str | None, typer.Option(help="ppo, or by TRL's trainers: rloo, grpo, dpo.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Stage 3: PPO from recruiter feedback on the CVs of the RL window, against the frozen reward model."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    if algo is not None:
        overrides.append(f"ppo.algo={algo}")
    _train(config, overrides, ("ppo",), force, json_file, resume)


@train_app.command("all")
def train_all_command(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    force: ForceOption = False,
    resume: ResumeOption = True,
    paper_literal: PaperOption = False,
    json_file: JsonOption = None,
) -> None:
    """The three stages one after the other; what these inputs were trained for before is taken as it is."""
    overrides = [*(set_values or []), *(PAPER_LITERAL if paper_literal else [])]
    _train(config, overrides, ("sft", "reward", "ppo"), force, json_file, resume)


def _train(
    config: Path,
    overrides: list[str] | None,
    stages: tuple[str, ...],
    force: bool,
    json_file: Path | None,
    resume: bool = True,
) -> None:
    """Train the given stages; the result of one stage as JSON, or stage -> result where there are several."""
    from girl_features.config import write_resolved
    from girl_features.errors import require
    from girl_features.generator.checkpoint import RECORD_NAME, REWARD_RECORD_NAME, GeneratorRecord, read_record
    from girl_features.pipeline import open_tables, windows_of

    resolved = _load(config, overrides)
    trained: dict[str, tuple[Path, GeneratorRecord]] = {}
    with open_tables(resolved) as tables:
        windows = windows_of(resolved, tables)
        for stage in stages:
            arguments = {"resume": resume} if stage == "ppo" else {}
            train = getattr(require(_STAGE_MODULES[stage], "train"), f"train_{stage}")
            folder = train(tables, windows, resolved, force=force, **arguments)
            write_resolved(resolved, folder / "girl.yaml")
            name = REWARD_RECORD_NAME if stage == "reward" else RECORD_NAME
            trained[stage] = (folder, read_record(folder, name))

    def show() -> None:
        for stage, (folder, record) in trained.items():
            shown = {"folder": str(folder), "rows": record.n_pairs, "trained until": record.trained_until}
            _print_mapping(f"{_STAGES[stage]} ({record.stage})", {**shown, **record.metrics})
            for note in record.notes:
                typer.echo(f"  {note}")

    results = {s: {"folder": str(folder), **record.model_dump(mode="json")} for s, (folder, record) in trained.items()}
    _emit(results if len(stages) > 1 else results[stages[0]], json_file, show)


@app.command()
def materialize(
    config: ConfigOption = DEFAULT_CONFIG, set_values: SetOption = None, json_file: JsonOption = None
) -> None:
    """Generate, encode and store what is missing, then publish it to Feast's online store."""
    from girl_features.pipeline import run_materialize

    resolved = _load(config, set_values)
    with _stop_on_signal(f"girl materialize --config {config}") as stop:
        report = run_materialize(resolved, should_stop=lambda: stop.signal is not None)
    _emit(vars(report), json_file, lambda: _print_mapping("Materialized", vars(report)))
    if stop.signal is not None:
        raise typer.Exit(128 + stop.signal)
    if report.n_failed:
        raise typer.Exit(1)


@app.command()
def contracts(
    config: ConfigOption = DEFAULT_CONFIG, set_values: SetOption = None, json_file: JsonOption = None
) -> None:
    """List the feature contracts in the store, oldest first."""
    from girl_features.store.parts import PartsStore

    held = PartsStore(_load(config, set_values).store_dir).contracts()
    rows = [{"contract": name, **contract.model_dump(mode="json")} for name, contract in held.items()]

    def show() -> None:
        for fingerprint, contract in held.items():
            drawn = f"n={contract.sampling.n}, temperature {contract.sampling.temperature:g}"
            typer.echo(
                f"{fingerprint}  {contract.generator}, {drawn}, {contract.encoder.name}, "
                f"trained until {contract.trained_until:%Y-%m-%d}"
            )

    _emit(rows, json_file, show)


@app.command()
def join(
    pairs: Annotated[Path, typer.Argument(help="Parquet of job_seeker_id, job_id, decided_at; other columns kept.")],
    out: Annotated[Path, typer.Argument(help="Parquet to write: the same rows with the girl_* columns beside them.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    contract: Annotated[str | None, typer.Option(help="Fingerprint; default: the newest in the store.")] = None,
    reduction: Annotated[
        Path | None,
        typer.Option(help="Folder of the fitted projection; default: in the workspace, by contract."),
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit the projection on these rows: the training rows, once.")
    ] = False,
    as_served: Annotated[bool, typer.Option(help="Only rows that were already written at decision time.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Join generated-JD features to a ranker's training table, point in time."""
    from girl_features.errors import require
    from girl_features.store.parts import PartsStore

    resolved = _load(config, set_values)
    store = PartsStore(resolved.store_dir)
    found = store.contract(contract) if contract else store.newest_contract()
    summary = require("girl_features.integrations.join_table", "rank").join_table(
        pairs,
        out,
        repo=resolved.feast_repo,
        contract=found,
        reduction=reduction or resolved.workspace / "reductions" / found.fingerprint,
        fit=fit,
        as_served=as_served,
    )
    _emit(summary._asdict(), json_file, lambda: _print_mapping(f"Wrote {out}", summary._asdict()))


@app.command()
def lookup(
    seekers: Annotated[list[str], typer.Argument(help="Job seeker ids.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    contract: Annotated[str | None, typer.Option(help="Fingerprint; default: the newest in the store.")] = None,
    json_file: JsonOption = None,
) -> None:
    """Look seekers up in the online store, as a ranking service would."""
    from girl_features.lookup import FeatureClient
    from girl_features.store.parts import PartsStore

    resolved = _load(config, set_values)
    store = PartsStore(resolved.store_dir)
    found = store.contract(contract) if contract else store.newest_contract()
    vectors = FeatureClient(resolved.feast_repo, found.fingerprint).job_seekers(seekers)
    rows = [
        {"job_seeker_id": seeker, "has_generated_jd": bool(has), "generated_jd_vector": vector.tolist()}
        for seeker, has, vector in zip(seekers, vectors.has_generated_jd, vectors.vectors, strict=True)
    ]

    def show() -> None:
        for row in rows:
            state = "generated JD" if row["has_generated_jd"] else "none: unknown seeker or not materialized yet"
            head = " ".join(f"{x:+.3f}" for x in row["generated_jd_vector"][:6])
            typer.echo(f"{row['job_seeker_id']}  {state}  [{head} ...]")

    _emit(rows, json_file, show)


@app.command()
def verify(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Compare so many ids of each view; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Compare the online store with the parts, row by row, and say in one line whether they agree."""
    from girl_features.store.verify import verify

    report = verify(_load(config, set_values).feast_repo, sample=sample, seed=seed)
    _emit(report.to_json(), json_file, lambda: typer.echo(report.verdict))
    if not report.agrees:
        raise typer.Exit(1)


@app.command()
def doctor(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    mend: Annotated[bool, typer.Option(help="Mend what can be mended, not only name it.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Find what crashes and bad disks left behind: cut registries, damaged parts, stale files, dead locks."""
    from girl_features.store.doctor import examine
    from girl_features.store.parts import PartsStore

    resolved = _load(config, set_values)
    repo = resolved.feast_repo if (resolved.feast_repo / "feature_store.yaml").is_file() else None
    findings = examine(repo, PartsStore(resolved.store_dir), mend_all=mend)

    def show() -> None:
        for found in findings:
            typer.echo(f"{found.path}: {found.problem}; {'done: ' if found.mended and mend else ''}{found.remedy}")
        left = sum(not found.mended for found in findings)
        typer.echo(f"{len(findings)} findings, {left} to be mended" if findings else "nothing is wrong")

    _emit([found._asdict() for found in findings], json_file, show)
    if any(not found.mended for found in findings):
        raise typer.Exit(1)


@app.command()
def compact(config: ConfigOption = DEFAULT_CONFIG, set_values: SetOption = None, json_file: JsonOption = None) -> None:
    """Merge the store's small parts; readers may go on meanwhile."""
    from girl_features.store.parts import PartsStore

    store = PartsStore(_load(config, set_values).store_dir)
    with store.lock():
        result = {"files_fewer": store.compact_all()}
    _emit(result, json_file, lambda: _print_mapping("Compacted", result))


@app.command()
def erase(
    seeker: Annotated[str, typer.Argument(help="Job seeker id.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Forget one job seeker, offline and online, and keep later runs from bringing the rows back."""
    from girl_features.store.erasing import erase
    from girl_features.store.parts import PartsStore

    resolved = _load(config, set_values)
    result = erase(resolved.feast_repo, PartsStore(resolved.store_dir), seeker)._asdict()
    _emit(result, json_file, lambda: _print_mapping("Erased", result))


@app.command()
def evaluate(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    json_file: JsonOption = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write a results page here.")] = None,
) -> None:
    """Compare rankers with and without the generated JD: AUC and LogLoss with paired intervals."""
    from girl_features.evaluation.report import print_comparison
    from girl_features.evaluation.run import run_evaluate, write_page

    resolved = _load(config, set_values)
    outcome = run_evaluate(resolved, _make_ranker())
    if markdown is not None:
        write_page(markdown, outcome, resolved, command=f"girl evaluate --config {config}")
    _emit(outcome.comparison.to_json(), json_file, lambda: print_comparison(outcome.comparison))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where the demo lives; kept, so you can look around.")] = Path(
        "girl-demo"
    ),
    quick: Annotated[bool, typer.Option(help="A smaller market and generator: under a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of market, training and sampling.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """The whole path on a simulated market: tables, training, features in Feast, rankers, a lookup."""
    from girl_features.demo import run_demo
    from girl_features.errors import require

    train_sft = require("girl_features.trainers.sft", "train").train_sft
    result = run_demo(folder, quick=quick, seed=seed, train_sft=train_sft, make_ranker=_make_ranker())
    _emit(result.to_json(), json_file, result.show)


class _Stop:
    signal: int | None = None


@contextmanager
def _stop_on_signal(resume: str) -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the chunk; a second one ends at once."""
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, signal.SIG_DFL)
        print(f"stopping after this chunk; resume with: {resume} (again to stop at once)", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load(config: Path, overrides: list[str] | None) -> GirlConfig:
    from girl_features.config import load_config

    return load_config(config, overrides)


def _make_ranker() -> Callable[..., Any]:
    from girl_features.errors import require

    make_ranker: Callable[..., Any] = require("girl_features.integrations.registry", "rank").make_ranker
    return make_ranker


def _emit(result: Any, json_file: Path | None, show: Callable[[], Any]) -> None:
    """Show the result to people, or write it as JSON to a file (and show it) or to stdout (alone)."""
    text = json.dumps(result, indent=1, default=str)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(text + "\n", encoding="utf-8")
    show()


def _print_mapping(title: str, values: dict[str, Any]) -> None:
    typer.echo(title)
    width = max(map(len, values), default=0)
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        typer.echo(f"  {name.ljust(width)}  {shown}")
