"""Commands to start with: init, sample, demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from girl_features.commands import common


def init(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where the Feast repo and girl.yaml go.")],
    project: Annotated[str, typer.Option(help="Feast project: a-z, 0-9 and _.")] = "girl",
    base: Annotated[
        str, typer.Option(help="Language model that learns to write JDs: see `girl bases`; `tiny` for trying out.")
    ] = "smollm2",
    force: Annotated[bool, typer.Option(help="Replace files that differ; each is kept, as NAME.bak-TIME.")] = False,
) -> None:
    """Write a girl.yaml and a Feast repo that `feast apply` takes as it stands."""
    from girl_features.init_repo import init_repo

    written = init_repo(folder, store_dir=folder / ".girl" / "store", project=project, base=base, force=force)
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(f"next: point `tables:` in {folder / 'girl.yaml'} at your data, then `girl check`")


def sample(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where the three tables go.")],
    seekers: Annotated[int, typer.Option(min=1, help="Number of job seekers.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier market in the folder.")] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Write a simulated market: seekers, jobs and recruiters' decisions, drawn from a known law."""
    from girl_features.progress import Progress
    from girl_features.sample.tables import write_sample

    with Progress("sample", seekers, "seekers") as progress:
        summary = write_sample(folder, n_seekers=seekers, seed=seed, progress=progress.reach, overwrite=overwrite)
    result = summary._asdict()
    common.emit(result, json_file, lambda: common.print_mapping(f"Simulated market in {folder}", result))


def demo(
    folder: Annotated[Path, typer.Option("--dir", file_okay=False, help="Folder of the demo. It is kept.")] = Path(
        "girl-demo"
    ),
    quick: Annotated[bool, typer.Option(help="A smaller market and generator: under a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of market, training and sampling.")] = 0,
    json_file: common.JsonOption = None,
) -> None:
    """Run the whole path on a simulated market: tables, training, features in Feast, rankers, a lookup."""
    from girl_features.sample.demo import run_demo
    from girl_features.trainers.reward import train_reward
    from girl_features.trainers.rl import train_ppo
    from girl_features.trainers.sft import train_sft

    stages: dict[str, Callable[..., Path]] = {"sft": train_sft, "reward": train_reward, "ppo": train_ppo}
    result = run_demo(folder, quick=quick, seed=seed, stages=stages, make_ranker=common.ranker_factory())
    common.emit(result.to_json(), json_file, result.show)
