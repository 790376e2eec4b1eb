"""What the commands share: options, loading girl.yaml, showing a result, stopping on a signal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.errors import ConfigError

if TYPE_CHECKING:
    from girl_features.config import GirlConfig

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The girl.yaml to use.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set sampling.n=4. Repeatable.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON here ('-' for stdout).")]
ContractOption = Annotated[str | None, typer.Option(help="Fingerprint; default: the newest in the store.")]
DEFAULT_CONFIG = Path("girl.yaml")


class Stop:
    """The signal that asked for a stop, if one did."""

    signal: int | None = None


@contextmanager
def stop_on_signal(resume: str) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for a stop after the chunk; a second one ends at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for either in (signal.SIGINT, signal.SIGTERM):
            signal.signal(either, signal.SIG_DFL)
        print(f"stopping after this chunk; resume with: {resume} (again to stop at once)", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load(config: Path, overrides: list[str] | None) -> GirlConfig:
    """The config of this file with `--set` values on top."""
    from girl_features.config import load_config

    return load_config(config, overrides)


def emit(result: Any, json_file: Path | None, show: Callable[[], Any]) -> None:
    """Show the result to people, or write it as JSON to a file (and show it) or to stdout (alone).

    Raises:
        ConfigError: the file cannot be written; the result is shown first, so that it is not lost.
    """
    text = json.dumps(result, indent=1, default=str)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            show()
            raise ConfigError(
                f"--json {json_file} cannot be written ({error.strerror or error}), but the work is done: see above; "
                f"name a file that can be written, or '-' for stdout"
            ) from error
    show()


def print_mapping(title: str, values: dict[str, Any]) -> None:
    """A title and one aligned line a value."""
    typer.echo(title)
    width = max(map(len, values), default=0)
    for name, value in values.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        typer.echo(f"  {name.ljust(width)}  {shown}")


def ranker_factory() -> Callable[..., Any]:
    """What makes a ranker by name, where the extra `rank` is installed."""
    from girl_features.errors import require

    factory: Callable[..., Any] = require("girl_features.integrations.rankers.registry", "rank").make_ranker
    return factory
