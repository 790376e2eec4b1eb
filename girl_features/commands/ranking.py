"""Commands for a ranker and its service: `girl train ranker`, `girl serve`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from girl_features.commands.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    ContractOption,
    JsonOption,
    SetOption,
    emit,
    load,
)

if TYPE_CHECKING:
    from girl_features.config import GirlConfig
    from girl_features.integrations.service.ranking import Ranking
    from girl_features.lookup.generation_queue import GenerationQueue


def train(
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    kind: Annotated[str, typer.Option(help="lightgbm, mlp, dot, or one of the paper's -plain forms.")] = "lightgbm",
    contract: ContractOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder to save it to; default: in the workspace.")] = None,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """A ranker of the ranking windows, saved for `girl serve`, with AUC and LogLoss for each tier of a look-up."""
    from girl_features.errors import require
    from girl_features.store.parts import PartsStore
    from girl_features.tiers import CAVEAT

    resolved = load(config, set_values)
    store = PartsStore(resolved.store_dir)
    found = store.contract(contract) if contract else store.newest_contract()
    folder = out or resolved.trained_rankers_dir / f"{kind}-{found.fingerprint}"
    train_ranker = require("girl_features.integrations.rankers.training", "rank").train_ranker
    trained = train_ranker(resolved, found, kind, folder, seed)

    def show() -> None:
        typer.echo(f"{trained.predictor} ranker of contract {trained.contract}, {trained.n_train} pairs: {folder}")
        for tier in trained.tiers:
            typer.echo(f"  {tier.tier:<10} AUC {tier.auc:.4f}  LogLoss {tier.logloss:.4f}  ({tier.n} test pairs)")
        if any(tier.tier in ("student", "neighbours") for tier in trained.tiers):
            typer.echo(f"  note: {CAVEAT}")

    emit({**trained._asdict(), "tiers": [tier._asdict() for tier in trained.tiers]}, json_file, show)


def serve(
    ranker: Annotated[Path, typer.Option(help="Folder of a saved ranker, as `girl train ranker` writes.")],
    config: ConfigOption = DEFAULT_CONFIG,
    set_values: SetOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. There is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    threads: Annotated[int, typer.Option(min=1, help="Requests at work at a time.")] = 4,
    waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are answered 429.")] = 16,
    deadline: Annotated[float, typer.Option(min=1, help="Milliseconds for all of a request.")] = 250.0,
) -> None:
    """Rank jobs over HTTP: /rank, /features, /health, /metrics. Ctrl-C or SIGTERM ends it after requests at work."""
    from girl_features.errors import require

    create_app = require("girl_features.integrations.ranking_service", "serve").create_app
    limits = require("girl_features.integrations.service.limits", "serve").Limits
    run_server = require("girl_features.integrations.service.server", "serve").run_server
    resolved = load(config, set_values)
    ranking, queue = _open(resolved, ranker)
    app = create_app(ranking, limits(threads, waiting, deadline), _length_of(queue, ranking.client.contract))
    try:
        run_server(app, host, port, lambda url: print(f"serving {ranker} on {url}", file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        ranking.client.close()


def _open(config: GirlConfig, folder: Path) -> tuple[Ranking, GenerationQueue]:
    """The ranker over a client of its own contract, which the Feast repo must know."""
    from girl_features.errors import ContractMismatchError, UnknownContractError, require
    from girl_features.lookup import open_client, open_queue, serving_encoder
    from girl_features.lookup.generation_queue import OfferQueue

    contract = require("girl_features.integrations.rankers.registry", "rank").peek_ranker(folder).contract
    queue = open_queue(config)
    encoder = serving_encoder(config, contract)
    try:
        client = open_client(config, contract, encoder=encoder, queue=OfferQueue(queue))
    except UnknownContractError as error:
        if not error.known:
            raise
        raise ContractMismatchError(error.known[-1], contract) from error
    return require("girl_features.integrations.service.ranking", "rank").Ranking.load(client, folder), queue


def _length_of(queue: GenerationQueue, contract: str) -> Callable[[], float]:
    from girl_features.errors import StoreError

    def length() -> float:
        try:
            return float(queue.lengths().get(contract, 0))
        except StoreError:
            return math.nan  # the service goes on without its queue

    return length
