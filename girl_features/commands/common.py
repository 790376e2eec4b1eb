"""Shared by the commands: options, loading girl.yaml, showing a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from girl_features.batch.quality import Verdict
    from girl_features.config import GirlConfig
    from girl_features.contract import FeatureContract

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The girl.yaml to use.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set sampling.n=4. Repeatable.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Also write the result as JSON here ('-' for stdout).")
]
ContractOption = Annotated[str | None, typer.Option(help="Fingerprint; default: the newest in the store.")]
AnywayOption = Annotated[
    bool, typer.Option("--anyway", help="Publish even if the generator is below the quality gate (`gate:`).")
]
DEFAULT_CONFIG = Path("girl.yaml")


def load(config: Path, overrides: list[str] | None) -> GirlConfig:
    """Load the config of a file, with `--set` values on top."""
    from girl_features.config import load_config

    return load_config(config, overrides)


def emit(result: Any, json_file: Path | None, show: Callable[[], Any]) -> None:
    """Show a result, and write it as JSON if a file is named.

    Args:
        result: anything that JSON can hold.
        json_file: file to write; a file there that is no such result is kept as NAME.bak-TIME. '-' writes JSON to
            stdout and shows nothing else.
        show: prints the result for people.

    Raises:
        ConfigError: the file cannot be written. The result is shown first, so that it is not lost.
    """
    from girl_features.store.user_files import make_way

    text = json.dumps(result, indent=1, default=str)
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
        return
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            make_way(json_file, lambda path: _has_shape(json.loads(path.read_text(encoding="utf-8")), json.loads(text)))
            json_file.write_text(text + "\n", encoding="utf-8")
        except (OSError, StoreError) as error:
            show()
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ConfigError(
                f"--json {json_file} cannot be written ({reason}), but the work is done: its "
                f"result is above; name a file that can be written, or '-' for stdout"
            ) from error
    show()


def _has_shape(earlier: Any, result: Any) -> bool:
    """True if a JSON value is an earlier result of the same command: an object of the same keys, or a list of such."""
    if isinstance(earlier, list) and isinstance(result, list):
        return not earlier or not result or _has_shape(earlier[0], result[0])
    return isinstance(earlier, dict) and isinstance(result, dict) and set(earlier) == set(result)


def print_mapping(title: str, values: dict[str, Any]) -> None:
    """Print a title, and one aligned line for each value."""
    typer.echo(title)
    width = max(map(len, values), default=0)
    for name, value in values.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        typer.echo(f"  {name.ljust(width)}  {text}")


def print_verdict(verdict: Verdict | None) -> None:
    """Print each measure of the quality gate with its threshold, and what follows for publishing."""
    if verdict is None:
        typer.echo("Quality gate: not asked yet; `girl materialize` without --anyway asks it first")
        return
    typer.echo(f"Quality gate, contract {verdict.contract}")
    for measure in verdict.measures:
        value = "-" if measure.value is None else f"{measure.value:.2f}"
        typer.echo(f"  {measure.result:12}  {measure.name:14}  {value:>5}  {measure.limit:>8}  {measure.note}")
    if not verdict.stands:
        typer.echo("  of too few rows, or another `gate.sample`: `girl materialize` without --anyway takes them again")
    if verdict.failed:
        typer.echo("  below the gate: `girl materialize` publishes nothing of this generator without --anyway")


def ranker_factory() -> Callable[..., Any]:
    """Return the function that makes a ranker by its name.

    Raises:
        MissingExtraError: the extra `rank` is not installed.
    """
    from girl_features.integrations.rankers.registry import make_ranker

    return make_ranker


def chosen_contract(store_dir: Path, contract: str | None) -> FeatureContract:
    """Return the contract of the store with this fingerprint, or the newest contract.

    Raises:
        UnknownContractError: the store holds no such contract, or none at all.
    """
    from girl_features.store.parts import PartsStore

    store = PartsStore(store_dir)
    return store.contract(contract) if contract else store.newest_contract()
