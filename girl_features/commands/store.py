"""Commands that maintain the store: verify, doctor, compact, erase."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.commands import common

if TYPE_CHECKING:
    from girl_features.config import GirlConfig
    from girl_features.store.parts import PartsStore


def verify(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Compare this many ids of each view; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    json_file: common.JsonOption = None,
) -> None:
    """Compare online store and parts row by row, and say in one line whether they agree."""
    from girl_features.store.parts import PartsStore
    from girl_features.store.verify import VerifyReport, verify

    resolved = common.load(config, set_values)
    if resolved.feast.repo is None and not (resolved.feast_repo / "feature_store.yaml").is_file():
        report = VerifyReport([], sample is not None)  # the first `girl materialize` writes the repo
    elif resolved.feast.online:
        report = verify(resolved.feast_repo, PartsStore(resolved.store_dir), sample=sample, seed=seed)
    else:
        report = VerifyReport([], sample is not None, is_online=False)
    common.emit(report.to_json(), json_file, lambda: typer.echo(report.verdict))
    if not report.agrees:
        raise typer.Exit(1)


def doctor(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    mend: Annotated[bool, typer.Option(help="Repair what can be repaired, instead of only naming it.")] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Find damage from crashes and bad disks: broken registries and parts, stale files and locks."""
    from girl_features.store.doctor import examine, is_new
    from girl_features.store.parts import PartsStore

    resolved = common.load(config, set_values)
    store = PartsStore(resolved.store_dir)
    has_repo = resolved.feast.repo is not None or (resolved.feast_repo / "feature_store.yaml").is_file()
    nothing_stored = is_new(resolved.feast_repo, store, resolved.runs_dir)
    findings = examine(resolved.feast_repo if has_repo else None, store, mend_all=mend, is_new=nothing_stored)

    def show() -> None:
        for finding in findings:
            done = f"done: {finding.done}" if finding.done else ""
            steps = "; now ".join(filter(None, [done, finding.remedy]))
            typer.echo(f"{finding.path}: {finding.problem}; {steps}")
        n_open = sum(not finding.mended for finding in findings)
        typer.echo(f"{len(findings)} findings, {n_open} to be mended" if findings else "nothing is wrong")
        if nothing_stored and not findings:
            typer.echo(f"nothing is stored yet; next: {_next_steps(resolved)}")

    common.emit([finding._asdict() for finding in findings], json_file, show)
    if any(not finding.mended for finding in findings):
        raise typer.Exit(1)


def _next_steps(config: GirlConfig) -> str:
    """Return the commands that lead from a new workspace to its first features."""
    is_trained = config.generators_dir.is_dir() and any(config.generators_dir.iterdir())
    return "`girl materialize`" if is_trained else "`girl check`, `girl train sft`, then `girl materialize`"


def compact(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    json_file: common.JsonOption = None,
) -> None:
    """Merge the small parts of the store. Readers can go on meanwhile."""
    from girl_features.store.parts import PartsStore
    from girl_features.store.parts.rows import VIEWS

    store = PartsStore(common.load(config, set_values).store_dir)
    result = {"files_fewer": 0}
    if not store.view_dirs(list(VIEWS)):  # then there is nothing to lock either
        message = "nothing is stored yet; `girl materialize` makes the first rows"
        common.emit(result, json_file, lambda: typer.echo(message))
        return
    with store.lock():
        result = {"files_fewer": store.compact_all()}
    common.emit(result, json_file, lambda: common.print_mapping("Compacted", result))


def erase(
    seeker: Annotated[str, typer.Argument(help="Job seeker id.")],
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Allow new JDs for the id again; what was erased is not brought back.")
    ] = False,
    json_file: common.JsonOption = None,
) -> None:
    """Erase one job seeker, offline and online, and keep later runs from bringing the rows back."""
    from girl_features.store.parts import PartsStore

    resolved = common.load(config, set_values)
    store = PartsStore(resolved.store_dir)
    if undo:
        _undo_erasure(store, seeker, json_file)
        return
    was_erased = store.is_erased(seeker)
    result = _erase(resolved, store, seeker)
    if not was_erased and not any(result.values()):
        print(
            f"nothing was found under the id {seeker!r}; from now on nothing is generated for it: if that is not the "
            f"id you meant, run `girl erase --undo` with it",
            file=sys.stderr,
        )

    def show() -> None:
        common.print_mapping("Erased", result)
        if resolved.students_dir.is_dir():
            typer.echo("student bundles may still hold its vectors, without the id: run `girl train student`")

    common.emit(result, json_file, show)


def _erase(config: GirlConfig, store: PartsStore, seeker: str) -> dict[str, Any]:
    """Erase a job seeker and count what was removed. Its queued CVs are removed even after an error."""
    from girl_features.lookup.opening import open_queue
    from girl_features.store.erasing import erase

    n_queued = 0
    try:
        report = erase(config.feast_repo, store, seeker)
    finally:  # after `erase`: once the tombstone is written, no CV is queued
        if config.queue_path.is_file():
            n_queued = open_queue(config).erase(seeker)
    return {**report._asdict(), "n_queued": n_queued}


def _undo_erasure(store: PartsStore, seeker: str, json_file: common.JsonOption) -> None:
    result = {"was_erased": False}
    if store.is_erased(seeker):
        with store.lock():
            result = {"was_erased": store.lift(seeker)}

    def show() -> None:
        typer.echo(
            f"{seeker!r} is generated for again from now on; what was erased is not brought back"
            if result["was_erased"]
            else f"{seeker!r} was not erased: nothing was changed"
        )

    common.emit(result, json_file, show)
