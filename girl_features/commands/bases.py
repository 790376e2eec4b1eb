"""The command bases: the base models that can be had on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from girl_features.commands import common

if TYPE_CHECKING:
    from girl_features.config import GirlConfig
    from girl_features.generator.bases.catalogue import KnownBase


def bases(
    config: common.ConfigOption = common.DEFAULT_CONFIG,
    set_values: common.SetOption = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Bring each base that can be had, and generate with it to measure its cost."),
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="CVs generated for --measure, the first of your table.")] = 16,
    accept: Annotated[
        str | None, typer.Option(help="Accept the terms of this base, which the list shows, in this workspace.")
    ] = None,
    json_file: common.JsonOption = None,
) -> None:
    """List the pretrained base models: size, licence, languages, cut-off, and what a thousand CVs take here."""
    from girl_features.errors import ConfigError
    from girl_features.generator.bases.catalogue import KNOWN_BASES
    from girl_features.generator.bases.costs import known_costs
    from girl_features.generator.bases.terms import accept_terms, is_accepted

    resolved = common.load(config, set_values)
    if accept is not None:
        known = KNOWN_BASES.get(accept)
        if known is None or known.terms is None:
            raise ConfigError(f"{accept!r} is no base with terms to accept; `girl bases` lists the bases")
        accept_terms(known, resolved.bases_dir)
        typer.echo(f"accepted for this workspace: {known.licence}, {known.terms}", err=True)
    if measure:
        _measure(resolved, sample)
    costs = known_costs(resolved.bases_dir)
    rows = []
    for known in KNOWN_BASES.values():
        cost = costs.get(known.name)
        rows.append(
            {
                "base": known.name,
                "n_parameters": known.n_parameters,
                "n_positions": known.n_positions,
                "licence": known.licence,
                "terms": known.terms,
                "terms_accepted": is_accepted(known, resolved.bases_dir),
                "languages": known.languages,
                "known_until": f"{known.known_until:%Y-%m-%d}",
                "here": _place(known, resolved.bases_dir),
                "cost": cost._asdict() if cost else None,
            }
        )

    def show() -> None:
        for row in rows:
            _show(row)

    common.emit(rows, json_file, show)


def _place(known: KnownBase, bases_dir: Path) -> str:
    from girl_features.generator.bases.finding import present_base

    if known.bundled is not None:
        return "a part of this package"
    if present_base(known.name, bases_dir) is not None:
        return "in the workspace"
    if known.packaged_files() is not None:
        return "installed as a package; the first use brings it into the workspace"
    return f"not installed: `{known.install_command}`, or `{known.download_command}` where the hub can be reached"


def _show(row: dict[str, Any]) -> None:
    common.print_mapping(
        row["base"],
        {
            "size": f"{row['n_parameters'] / 1e6:.0f} M parameters, {row['n_parameters'] * 4 / 1e6:,.0f} MB in float32",
            "reads": f"{row['n_positions']:,} tokens at once",
            "licence": _licence(row),
            "languages": row["languages"],
            "known until": _known_until(row),
            "here": row["here"],
            "1,000 CVs": _cost(row),
        },
    )


def _known_until(row: dict[str, Any]) -> str:
    from girl_features.config import TINY_BASES

    if row["base"] in TINY_BASES:
        return "no day: it has read simulated texts only"
    return f"{row['known_until']} (generator.trained_until)"


def _licence(row: dict[str, Any]) -> str:
    if row["terms"] is None:
        return str(row["licence"])
    state = "accepted" if row["terms_accepted"] else f"not accepted: `girl bases --accept {row['base']}`"
    return f"{row['licence']}, {row['terms']} ({state})"


def _cost(row: dict[str, Any]) -> str:
    from girl_features.config import TINY_BASES

    cost = row["cost"]
    if cost is None and row["base"] in TINY_BASES:
        return "not measured: it is for simulated markets"
    if cost is None:
        return "not measured on this machine: `girl bases --measure`"
    return (
        f"{cost['seconds_per_1000'] / 60:.1f} minutes with {cost['engine']}, untuned, "
        f"{cost['mean_jd_tokens']:.0f} tokens a JD (from {cost['n_measured']} CVs, {cost['machine']})"
    )


def _measure(config: GirlConfig, sample: int) -> None:
    """Measure the base of `girl.yaml`, and those for real tables that need no download and have no terms to accept."""
    from girl_features.errors import DataError
    from girl_features.generator.bases.catalogue import KNOWN_BASES
    from girl_features.generator.bases.costs import measure_cost
    from girl_features.generator.bases.finding import present_base
    from girl_features.generator.bases.terms import is_accepted
    from girl_features.input.tables import open_tables
    from girl_features.progress import announce

    with open_tables(config) as tables:
        query = "SELECT cv FROM job_seekers WHERE trim(cv) <> '' ORDER BY job_seeker_id, updated_at LIMIT ?"
        cvs = [cv for (cv,) in tables.connection.execute(query, [sample]).fetchall()]
    if not cvs:
        raise DataError("there is no CV to measure with: `girl check` reports on the tables")
    for known in KNOWN_BASES.values():
        can_be_had = present_base(known.name, config.bases_dir) is not None or known.packaged_files() is not None
        is_of_use = known.bundled is None and is_accepted(known, config.bases_dir)  # the bundled one: simulations only
        if (can_be_had and is_of_use) or known.name == config.generator.base:
            announce(f"generating {len(cvs)} JDs with {known.name}")
            measure_cost(
                known.name,
                config.bases_dir,
                config.exports_dir,
                cvs,
                config.sampling,
                config.generator.max_cv_tokens,
            )
