"""Commands for the online store: lookup, serve-worker, map."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from girl_features.commands import common
from girl_features.commands.stopping import stop_on_signal

DEADLINE_MS = 10_000.0  # a person can wait longer than a ranking service


def lookup(
    seekers: Annotated[list[str], typer.Argument(help="Job seeker ids.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    contract: common.ContractOption = None,
    cv: Annotated[Path | None, typer.Option(help="File with the present CV of the one seeker asked for.")] = None,
    json_file: common.JsonOption = None,
) -> None:
    """Look up job seekers in the online store, as a ranking service does. Nothing is queued."""
    from girl_features.input.cv_file import read_cv_file
    from girl_features.lookup import open_client, serving_encoder
    from girl_features.lookup.opening import full_fingerprint
    from girl_features.schema import Tier

    if cv is not None and len(seekers) != 1:
        raise typer.BadParameter(f"one CV for {len(seekers)} seekers; ask for one at a time", param_hint="--cv")
    resolved = common.load(config, set_values)
    texts = None if cv is None else [read_cv_file(cv)]
    fingerprint = full_fingerprint(resolved, contract)
    encoder = serving_encoder(resolved, fingerprint) if texts else None
    with open_client(resolved, fingerprint, encoder=encoder) as client:
        answer = client.job_seekers(seekers, texts, deadline_ms=DEADLINE_MS)
    if answer.problem is not None:
        print(f"the online store was not read: {answer.problem}", file=sys.stderr)
    rows = [
        {
            "job_seeker_id": seeker,
            "tier": Tier(answer.tiers[i]).name.lower(),
            "age_seconds": None if answer.tiers[i] > Tier.STALE else round(float(answer.age[i])),
            "is_stale": bool(answer.is_stale[i]),
            "has_generated_jd": bool(answer.has_generated_jd[i]),
            "generated_jd_vector": answer.vectors[i].tolist(),
        }
        for i, seeker in enumerate(seekers)
    ]

    def show() -> None:
        for row, vector in zip(rows, answer.vectors, strict=True):
            age = "" if row["age_seconds"] is None else f", {row['age_seconds'] / 86_400:.1f} days old"
            head = " ".join(f"{x:+.3f}" for x in vector[:6])
            typer.echo(f"{row['job_seeker_id']}  {row['tier']}{age}  [{head} ...]")

    common.emit(rows, json_file, show)


def serve_worker(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at an empty queue.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False,
    anyway: common.AnywayOption = False,
    json_file: common.JsonOption = None,
) -> None:
    """Generate JDs for seekers that services asked for and the store lacked, and publish them."""
    from girl_features.batch.worker import open_worker, serve

    resolved = common.load(config, set_values)
    worker = open_worker(resolved, anyway=anyway)
    print(f"generating under contract {worker.contract.fingerprint}; Ctrl-C ends after the cycle", file=sys.stderr)
    command = f"girl serve-worker --config {config}{' --anyway' if anyway else ''}"
    with stop_on_signal("this cycle", command) as stop:
        total = serve(
            worker,
            every_seconds=every,
            once=once,
            should_stop=stop.is_made,
            on_report=lambda report: print(_line(report._asdict()), file=sys.stderr),
        )
    common.emit(total._asdict(), json_file, lambda: common.print_mapping("Worked off the queue", total._asdict()))
    if stop.is_made():
        raise typer.Exit(stop.exit_code)
    if total.n_failed:
        raise typer.Exit(1)


def map_contract(
    source: Annotated[
        str, typer.Option("--from", help="Contract that the store has vectors of: fingerprint or first digits.")
    ],
    target: Annotated[str, typer.Option("--to", help="Contract that rankers were trained on.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """Map one contract's vectors to another's, so that a ranker of the old one still works, and say what it costs."""
    from girl_features.mapping.run import run_map
    from girl_features.store.parts import PartsStore

    resolved = common.load(config, set_values)
    store = PartsStore(resolved.store_dir)
    report = run_map(resolved, store.contract(source), store.contract(target), common.ranker_factory())
    result = {**report._asdict(), "losses": [loss._asdict() for loss in report.losses]}

    def show() -> None:
        common.print_mapping("Mapped", {name: value for name, value in result.items() if name != "losses"})
        for loss in report.losses:
            interval = "" if loss.auc_loss_low is None else f" ({loss.auc_loss_low:+.4f} to {loss.auc_loss_high:+.4f})"
            typer.echo(
                f"  {loss.predictor}: AUC {loss.auc_mapped:.4f} on mapped vectors, {loss.auc_retrained:.4f} trained "
                f"again; not training again costs {loss.auc_loss:+.4f}{interval}"
            )

    common.emit(result, json_file, show)


def _line(values: dict[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('n_').replace('_', ' ')} {value}" for name, value in values.items())
