"""Every command on odd tables: none may end in a traceback, and a refusal says which table, column or window is meant.

A workspace is trained and materialized once on a simulated market. Then its tables are replaced by odd ones, and each
command that reads tables runs on them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.errors import GirlError

RIGHT = ("answered", "refused by name")
NAMES = ("job_seekers", "jobs", "interactions")
SETTINGS = {
    "name": "odd",
    "workspace": "w",
    "tables": {name: {"path": f"tables/{name}.parquet"} for name in NAMES},
    "windows": {"sft_share": 0.3, "reward_share": 0.15, "rl_share": 0.15, "train_share": 0.2, "valid_share": 0.1},
    "generator": {
        "engine": "transformers",
        "max_cv_tokens": 48,
        "tiny": {"vocab_size": 600, "hidden_size": 32, "n_layers": 1, "n_heads": 2, "pretrain_epochs": 1},
    },
    "sft": {"epochs": 4, "max_jd_tokens": 24},
    "reward": {"epochs": 1, "max_jd_tokens": 24},
    "ppo": {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "evaluate_every": 1, "critic_warmup": 0},
    "sampling": {"max_new_tokens": 24},
    "encoder_tuning": {"max_tokens": 16},
}
EXPERIMENT = {
    "name": "trial",
    "workspace": "out",
    "data": {"odd": {"config": "girl.yaml"}},
    "generators": {"girl-sft": {"stages": ["sft"], "set": ["generator.stage=sft"]}},
    "grids": [{"rows": ["base"], "predictors": ["cosine"]}],
    "seeds": [0],
    "n_bootstrap": 100,
}

# The arguments of every command that reads the user's tables; {folder} is the folder of girl.yaml.
READING = {
    "check": ["check"],
    "check --strict": ["check", "--strict"],
    "train sft": ["train", "sft", "--force"],
    "train reward": ["train", "reward", "--force"],
    "train ppo": ["train", "ppo", "--force"],
    "train all": ["train", "all"],
    "train student": ["train", "student"],
    "train encoder": ["train", "encoder", "--force"],
    "train ranker": ["train", "ranker", "--out", "{folder}/ranker"],
    "materialize --dry-run": ["materialize", "--dry-run", "--sample", "2"],
    "materialize": ["materialize", "--anyway"],
    "evaluate": ["evaluate"],
    "ground": ["ground", "--limit", "3"],
    "judge": ["judge"],
    "join --fit": ["join", "{folder}/tables/interactions.parquet", "{folder}/joined.parquet", "--fit"],
    "experiment run": ["experiment", "run", "{folder}/trial.yaml", "--jobs", "1"],
}
# Commands that read no table of the user. `serve` and `serve-worker` read stored rows, and run until they are stopped.
NOT_READING = {
    "init",
    "bases",  # without --measure
    "sample",
    "contracts",
    "history",
    "lookup",
    "serve",
    "serve-worker",
    "map",
    "verify",
    "doctor",
    "compact",
    "erase",
    "demo",
    "runs show",
}

Tables = dict[str, pl.DataFrame]


class Odd(NamedTuple):
    """One way to change the tables of a market. `breaks` is false if every command must work on the result."""

    name: str
    change: Callable[[Tables], Tables]


def _of_table(table: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Tables], Tables]:
    return lambda tables: {**tables, table: change(tables[table])}


def _only_nulls(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(None).cast(kind).alias(name) for name, kind in frame.schema.items())


def _untyped_nulls(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(None).alias(name) for name in frame.columns)


def _with(table: str, **columns: Any) -> Callable[[Tables], Tables]:
    return _of_table(table, lambda frame: frame.with_columns(**columns))


def _all_columns(change: Callable[[str], pl.Expr], names: tuple[str, ...]) -> Callable[[Tables], Tables]:
    def apply(tables: Tables) -> Tables:
        return {
            table: frame.with_columns(change(name).alias(name) for name in names if name in frame.columns)
            for table, frame in tables.items()
        }

    return apply


def _number(name: str) -> pl.Expr:
    return pl.col(name).hash(seed=0) % (1 << 40)


_IDS, _TIMES = ("job_seeker_id", "job_id"), ("updated_at", "posted_at", "decided_at")
_LATE = datetime(2999, 1, 1, tzinfo=UTC)

ODD = [
    *(Odd(f"no rows in {table}", _of_table(table, lambda frame: frame.clear())) for table in NAMES),
    *(Odd(f"one row in {table}", _of_table(table, lambda frame: frame.head(1))) for table in NAMES),
    *(Odd(f"only nulls in {table}", _of_table(table, _only_nulls)) for table in NAMES),
    *(Odd(f"only nulls of no type in {table}", _of_table(table, _untyped_nulls)) for table in NAMES),
    *(Odd(f"no columns in {table}", _of_table(table, lambda frame: pl.DataFrame())) for table in NAMES),
    Odd("every decision in the future", _with("interactions", decided_at=pl.lit(_LATE))),
    Odd("every decision at one time", _with("interactions", decided_at=pl.col("decided_at").max())),
    Odd("every decision a match", _with("interactions", matched=pl.lit(True))),
    Odd("no decision a match", _with("interactions", matched=pl.lit(False))),
    Odd("stars in place of matched", _with("interactions", matched=pl.lit(4))),
    Odd("every CV blank", _with("job_seekers", cv=pl.lit("  "))),
    Odd("every CV the same", _with("job_seekers", cv=pl.lit("welder"))),
    Odd("every CV in Chinese", _with("job_seekers", cv=pl.lit("软件工程师,北京,十年经验,熟悉数据"))),
    Odd("CVs of bytes that are no text", _with("job_seekers", cv=pl.lit(b"\xff\xfe\x00PNG"))),
    Odd("CVs as lists", _with("job_seekers", cv=pl.col("cv").str.split(" "))),
    Odd("one seeker", lambda tables: {**tables, **_first_seeker(tables)}),
    Odd("ids as integers", _all_columns(_number, _IDS)),
    Odd("ids as floats", _all_columns(lambda name: _number(name).cast(pl.Float64), _IDS)),
    Odd("ids as categories", _all_columns(lambda name: pl.col(name).cast(pl.Categorical), _IDS)),
    Odd("ids as dates", _all_columns(lambda name: (_number(name) % 20_000).cast(pl.Date), _IDS)),
    Odd("naive times", _all_columns(lambda name: pl.col(name).dt.replace_time_zone(None), _TIMES)),
    Odd("nanosecond times", _all_columns(lambda name: pl.col(name).cast(pl.Datetime("ns", "UTC")), _TIMES)),
    Odd("times of another zone", _all_columns(lambda name: pl.col(name).dt.convert_time_zone("Asia/Tokyo"), _TIMES)),
    Odd("times as text", _all_columns(lambda name: pl.col(name).dt.to_string("%Y-%m-%dT%H:%M:%SZ"), _TIMES)),
    Odd("times as dates", _all_columns(lambda name: pl.col(name).dt.date(), _TIMES)),
    Odd("times as epoch numbers", _all_columns(lambda name: pl.col(name).dt.epoch("s"), _TIMES)),
    Odd("a column girl_row", _all_columns(lambda name: pl.int_range(pl.len()), ("girl_row",))),
    Odd("columns of our own names", lambda tables: {t: _with_our_names(frame) for t, frame in tables.items()}),
    Odd("columns in capitals", lambda tables: {t: f.rename(str.upper) for t, f in tables.items()}),
    Odd("a girl column", _with("interactions", girl_tier=pl.lit(1), girl_has_generated_jd=pl.lit(True))),
]


def _first_seeker(tables: Tables) -> Tables:
    first = tables["interactions"]["job_seeker_id"][0]
    return {name: tables[name].filter(job_seeker_id=first) for name in ("job_seekers", "interactions")}


def _with_our_names(frame: pl.DataFrame) -> pl.DataFrame:
    names = ["girl_row", "rowid", "problem", "flags", "cut", "clean", "final", "cv_hash", "known_at", "event_timestamp"]
    return frame.with_columns(pl.lit(7).alias(name) for name in names)


class Answer(NamedTuple):
    """The end of one command: "answered", "refused by name", "refused without the name" or "traceback"."""

    command: str
    outcome: str
    message: str


def girl(*arguments: object) -> tuple[int, BaseException | None, str]:
    """Run a command in this process. Return its exit code, the error that it ended in, and its output."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.exception, result.output


def build_workspace(folder: Path, n_seekers: int = 80) -> None:
    """Train, materialize and fit on a simulated market in `folder`, so that every command can reach its tables.

    Raises:
        RuntimeError: a command failed on these good tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "girl.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "trial.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    steps = [
        ["sample", folder / "tables", "--seekers", n_seekers],
        *([*READING[name], "--config", folder / "girl.yaml"] for name in ("train sft", "train reward", "materialize")),
    ]
    for step in steps:
        code, error, output = girl(*step)
        if code not in (0, 1) or (error is not None and not isinstance(error, SystemExit)):
            raise RuntimeError(f"{step} ended with {code}, {error!r}: {output}")
    shutil.copytree(folder / "tables", folder / "good")


def answers(folder: Path, odd: Odd, commands: Iterator[str] | list[str]) -> Iterator[Answer]:
    """Replace the tables by odd ones and yield the answer of each command."""
    good = {name: pl.read_parquet(folder / "good" / f"{name}.parquet") for name in NAMES}
    for name, frame in odd.change(good).items():
        frame.write_parquet(folder / "tables" / f"{name}.parquet")
    for path in (folder / "joined.parquet", folder / "ranker", folder / "w" / "reductions", folder / "out"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for command in commands:
        arguments = [word.format(folder=folder) for word in READING[command]]
        if command != "experiment run":
            arguments += ["--config", str(folder / "girl.yaml")]
        yield _answer(command, *girl(*arguments))


def _answer(command: str, code: int, error: BaseException | None, output: str) -> Answer:
    if error is None or (isinstance(error, SystemExit) and code in (0, 1)):
        return Answer(command, "answered", output)
    if isinstance(error, GirlError):
        return Answer(
            command, "refused by name" if _names_its_cause(str(error)) else "refused without the name", str(error)
        )
    if isinstance(error, SystemExit):
        return Answer(command, "refused without the name", output)
    return Answer(command, "traceback", f"{type(error).__name__}: {error}")


def _names_its_cause(message: str) -> bool:
    """True if a message names a table, a column, a window or a setting, and a next step can be seen from it."""
    return (
        re.search(
            r"job_seekers|\bjobs\b|interactions|job_seeker_id|job_id|\bcv\b|\bjd\b|_at\b|matched|window|CV|JD|`",
            message,
        )
        is not None
    )
