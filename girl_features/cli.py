"""The `girl` command: arguments in, one call, a short summary out.

Results go to stdout, logs and progress to stderr. Exit 0 for success, 1 if some rows failed, 2 for bad
arguments or input and for whatever nobody foresaw. Heavy imports sit inside the commands, so that
`girl --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from girl_features.commands import bases, check, evidence, features, online, ranking, runs, setup, store, train
from girl_features.errors import GirlError
from girl_features.sql import was_interrupted

COMMANDS = (
    setup.init,
    setup.sample,
    check.check,
    bases.bases,
    features.materialize,
    features.contracts,
    runs.history,
    features.join,
    online.lookup,
    online.serve_worker,
    ranking.serve,
    features.evaluate,
    evidence.ground,
    evidence.judge,
    store.verify,
    store.doctor,
    store.compact,
    store.erase,
    setup.demo,
)

app = typer.Typer(
    help="Generated job descriptions as job-seeker features, in a Feast store on DuckDB.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train_app = typer.Typer(help="Train the generator, stage by stage.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(runs.runs_app, name="runs")
app.add_typer(evidence.experiment_app, name="experiment")
for _name, _stage in (
    ("sft", train.sft),
    ("reward", train.reward),
    ("ppo", train.ppo),
    ("all", train.all_stages),
    ("student", train.student),
    ("encoder", train.encoder),
    ("ranker", ranking.train),
):
    train_app.command(_name)(_stage)
for _command in COMMANDS:
    app.command()(_command)
app.command("map")(online.map_contract)


def main() -> None:
    """Console entry point: our own errors become one line and exit code 2; any other a traceback and 2, never 1."""
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
    except Exception as error:
        if was_interrupted(error):
            print("stopped", file=sys.stderr)
            raise SystemExit(130) from error
        traceback.print_exc()
        print("error: this was not foreseen (above); nothing says that the work was done", file=sys.stderr)
        raise SystemExit(2) from error
    except SystemExit as stopped:
        if stopped.code == 1 and not isinstance(stopped.__context__, typer.Exit):  # a closed pipe, or a library's
            raise SystemExit(2) from stopped
        raise


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
