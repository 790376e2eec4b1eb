"""Commands for a ranker and its service: `girl train ranker` and `girl serve`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from girl_features.commands import common

if TYPE_CHECKING:
    from girl_features.config import GirlConfig
    from girl_features.integrations.online_ranking import Ranking
    from girl_features.lookup.generation_queue import GenerationQueue


def train(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    kind: Annotated[str, typer.Option(help="lightgbm, mlp, dot, or one of the paper's -plain forms.")] = "lightgbm",
    contract: common.ContractOption = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to save it to; default: in the workspace.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    json_file: common.JsonOption = None,
) -> None:
    """Train a ranker on the ranking windows and save it for `girl serve`. Shows AUC and LogLoss for each tier."""
    from girl_features.integrations.rankers.training import train_ranker
    from girl_features.tiers import CAVEAT

    resolved = common.load(config, set_values)
    features = common.chosen_contract(resolved.store_dir, contract)
    folder = out or resolved.trained_rankers_dir / f"{kind}-{features.fingerprint}"
    trained = train_ranker(resolved, features, kind, folder, seed)

    def show() -> None:
        typer.echo(f"{trained.predictor} ranker of contract {trained.contract}, {trained.n_train} pairs: {folder}")
        for tier in trained.tiers:
            typer.echo(f"  {tier.tier:<10} AUC {tier.auc:.4f}  LogLoss {tier.logloss:.4f}  ({tier.n} test pairs)")
        if any(tier.tier in ("student", "neighbours") for tier in trained.tiers):
            typer.echo(f"  note: {CAVEAT}")

    common.emit({**trained._asdict(), "tiers": [tier._asdict() for tier in trained.tiers]}, json_file, show)


def serve(
    ranker: Annotated[Path, typer.Option(help="Folder of a saved ranker, as `girl train ranker` writes.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. There is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    threads: Annotated[int, typer.Option(min=1, help="Requests that are handled at the same time.")] = 4,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are answered 429.")] = 16,
    deadline: Annotated[float, typer.Option(min=1, help="Milliseconds for a whole request.")] = 250.0,
) -> None:
    """Rank jobs over HTTP: /rank, /features, /health, /metrics. Ctrl-C or SIGTERM ends it after open requests."""
    from girl_features.integrations.ranking_service import Limits, create_app, run_server
    from girl_features.progress import announce

    resolved = common.load(config, set_values)
    announce(f"loading the ranker {ranker} and opening the online store")
    ranking, queue = _open(resolved, ranker)
    app = create_app(ranking, Limits(threads, waiting, deadline), _queue_length(queue, ranking.client.contract))
    try:
        run_server(app, host, port, lambda url: print(f"serving {ranker} on {url}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        ranking.client.close()


def _open(config: GirlConfig, folder: Path) -> tuple[Ranking, GenerationQueue]:
    """Open a ranker with a client of its contract, and the queue. The Feast repo must know that contract."""
    from girl_features.errors import ContractMismatchError, UnknownContractError
    from girl_features.integrations.online_ranking import Ranking
    from girl_features.integrations.rankers.registry import peek_ranker
    from girl_features.lookup import open_client, open_queue, serving_encoder
    from girl_features.lookup.generation_queue import BackgroundQueue

    contract = peek_ranker(folder).contract
    queue = open_queue(config)
    encoder = serving_encoder(config, contract)
    try:
        client = open_client(config, contract, encoder=encoder, queue=BackgroundQueue(queue))
    except UnknownContractError as error:
        if not error.known:
            raise
        raise ContractMismatchError(error.known[-1], contract) from error
    return Ranking.load(client, folder), queue


def _queue_length(queue: GenerationQueue, contract: str) -> Callable[[], float]:
    from girl_features.errors import StoreError

    def length() -> float:
        try:
            return float(queue.lengths().get(contract, 0))
        except StoreError:
            return math.nan  # unknown; the service works without its queue

    return length
