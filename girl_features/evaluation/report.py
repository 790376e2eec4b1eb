"""A comparison for people: the paper's tables III and IV on the terminal and as a Markdown results page."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.text import Text

from girl_features.evaluation.results import BASE, DEFINITIONS, SLICE_NAMES, Comparison, ResultRow
from girl_features.evaluation.tables import (
    Column,
    bullets,
    frame_of,
    inline,
    interval_text,
    markdown_table,
    rich_table,
    value_text,
    write_page,
)

PREDICTOR = Column("predictor", "predictor")
ROW = Column("row", "row")
AUC = Column("AUC", "auc", ".4f")
AUC_INTERVAL = Column("AUC, 95 %", "auc_low", ".4f", "auc_high")
GAIN = Column("gain", "auc_gain", "+.4f")
GAIN_INTERVAL = Column("gain, 95 %", "auc_gain_low", "+.4f", "auc_gain_high")
LOGLOSS = Column("LogLoss", "logloss", ".4f")
VERDICT = Column("verdict", "verdict")
_NARROW_COLUMNS = [PREDICTOR, ROW, AUC, GAIN, GAIN_INTERVAL, LOGLOSS, VERDICT]  # fit a terminal of 80 columns
_WIDE_COLUMNS = [PREDICTOR, ROW, AUC, AUC_INTERVAL, GAIN, GAIN_INTERVAL, LOGLOSS, VERDICT]
_PAGE_COLUMNS = [*_WIDE_COLUMNS, Column("pairs", "n")]
_SPREAD_COLUMNS = [
    *(Column("slice", "slice"), PREDICTOR, ROW),
    Column("SD of AUC", "auc_seed_sd", ".4f"),
    Column("SD of gain", "auc_gain_seed_sd", ".4f"),
    Column("LogLoss - base", "logloss_gain", "+.4f"),
    Column("LogLoss - base, 95 %", "logloss_gain_low", "+.4f", "logloss_gain_high"),
    *(Column("Brier", "brier", ".4f"), Column("ECE", "ece", ".4f")),
]
_WIDE = 100  # terminal columns from which the intervals of the AUC are shown too
_PAPER_TABLES = {"all": " (as table III of GIRL)", "cold": " (as table IV of GIRL)"}
_COUNTS = (
    "{n} of {n_seekers} seekers, {n_matched} matched, {n_cold_start} cold-start, {n_with_generated_jd} with a "
    "generated JD"
)


def print_comparison(comparison: Comparison, simulation: bool = False, console: Console | None = None) -> None:
    """Print one table for each slice and the warning about chance, to stdout or to `console`."""
    console = console or Console()
    columns = _WIDE_COLUMNS if console.width >= _WIDE else _NARROW_COLUMNS
    for title, rows, notes in _slice_tables(comparison, simulation):
        console.print(rich_table(rows, columns, title, notes))
        console.print()
    for line in control_lines(comparison):
        console.print(Text(line))
    console.print(Text(chance_warning(comparison)))


def markdown_tables(comparison: Comparison, simulation: bool = False) -> str:
    """Return one Markdown section for each slice."""
    sections = [
        f"## {inline(title)}\n\n{markdown_table(rows, _PAGE_COLUMNS)}\n\n{bullets(map(inline, notes))}"
        for title, rows, notes in _slice_tables(comparison, simulation)
    ]
    return "\n\n".join(sections)


def control_lines(comparison: Comparison) -> list[str]:
    """Return sentences on the controls that every row reads: their own AUCs, and a warning if style tells the author.

    Empty without controls.
    """
    controls = comparison.meta.get("controls") or []
    if not controls:
        return []
    aucs = [
        f"{row['name']} {value_text(row['auc'], '.3f')} ({interval_text(row['auc_low'], row['auc_high'], '.3f')})"
        for row in controls
    ]
    names = ", ".join(row["name"] for row in controls)
    lines = [
        f"Every trained row, base included, also reads the controls {names}: a gain is a gain over them.",
        f"AUC of each control alone on the test pairs: {'; '.join(aucs)}.",
    ]
    warning = comparison.meta.get("author_warning")
    return [*lines, f"Warning: {warning}"] if warning else lines


def findings(comparison: Comparison) -> list[str]:
    """Return a sentence for each predictor and row: a lift, a loss or neither, on each slice."""
    cells: dict[str, list[ResultRow]] = {}
    for row in comparison.rows:
        if row.row != BASE:
            cells.setdefault(f"{row.predictor}, {row.row} over base", []).append(row)
    return [f"{name}: {'; '.join(map(_finding, rows))}." for name, rows in cells.items()]


def chance_warning(comparison: Comparison) -> str:
    """Return how many of the verdicts chance alone would make if nothing differed."""
    n = sum(row.verdict is not None for row in comparison.rows)
    return (
        f"{n} differences were tested at 95 % each, without correction: if no row differed from base, about "
        f"{n * 0.05:.2g} of them would still read better or worse (they are not independent)."
    )


def write_markdown(
    path: Path,
    comparison: Comparison,
    *,
    command: str,
    machine: str,
    date: datetime.date,
    windows: Mapping[str, str],
    contracts: Mapping[str, str],
    notes: Sequence[str] = (),
    simulation: bool = False,
    plot: str | None = None,
) -> None:
    """Write the results page to `path`, and make its folder if it is absent.

    `windows` and `contracts` map names and rows to descriptions; `plot` is the link to a picture, relative to the page.
    With `simulation`, every headline says that the data are simulated.
    """
    meta = comparison.meta
    seeds = ", ".join(map(str, meta["seeds"]))
    facts = {
        "Date": date.isoformat(),
        "Machine": machine,
        "Seeds": f"{seeds} (rankers); {meta['bootstrap_seed']} (bootstrap, {meta['n_bootstrap']} resamples)",
        **{f"Pairs, {name}": _COUNTS.format(**part) for name, part in meta["parts"].items()},
        **{f"Window, {name}": text for name, text in windows.items()},
        **{f"Contract, {row}": text for row, text in contracts.items()},
    }
    suffix = " (simulation)" if simulation else ""
    write_page(
        path,
        Path(__file__).with_name("page.md"),
        title=inline(f"{meta['data']}{suffix}"),
        command="\n".join(f"    {line}" for line in command.splitlines()),
        facts=bullets(f"**{inline(name)}:** {inline(text)}" for name, text in facts.items()),
        findings=bullets(map(inline, [*control_lines(comparison), *findings(comparison), chance_warning(comparison)])),
        tables=markdown_tables(comparison, simulation),
        picture=f"![Gain in AUC over base, with intervals]({plot})" if plot else "",
        simulation=suffix,
        spread=markdown_table(frame_of(comparison.rows), _SPREAD_COLUMNS),
        definitions=bullets(f"`{name}`: {text}" for name, text in DEFINITIONS.items()),
        notes=f"## Notes\n\n{bullets(map(inline, notes))}" if notes else "",
    )


def _slice_tables(comparison: Comparison, simulation: bool) -> Iterator[tuple[str, pl.DataFrame, list[str]]]:
    """Yield title, rows and notes of each slice."""
    prefix = "Simulation: " if simulation else ""
    for name in dict.fromkeys(row.slice for row in comparison.rows):
        rows = [row for row in comparison.rows if row.slice == name]
        size = f"{rows[0].n} pairs of {rows[0].n_seekers} seekers"
        title = f"{prefix}{comparison.meta['data']}, {SLICE_NAMES.get(name, name)}{_PAPER_TABLES.get(name, '')}, {size}"
        notes = list(dict.fromkeys(row.note for row in rows if row.note is not None))
        if n_redrawn := comparison.meta["n_redrawn"].get(name):
            notes.append(f"{n_redrawn} resamples lacked a class and were drawn again")
        yield title, frame_of(rows), notes


def _finding(row: ResultRow) -> str:
    where = {"all": "on all pairs", "cold": "on cold-start seekers"}.get(row.slice, f"on {row.slice}")
    if row.verdict is None:
        return f"nothing can be said {where} ({row.note})"
    ends = interval_text(row.auc_gain_low, row.auc_gain_high, "+.4f")
    outcome = {"better": "a lift", "worse": "a loss", "not shown": "no lift shown"}[row.verdict]
    caution = ""
    if row.verdict != "not shown" and row.auc_gain_seed_sd is None:  # the interval does not cover other seeds
        caution = "; one seed only: another may differ"
    return f"{outcome} {where} (AUC {value_text(row.auc_gain, '+.4f')}, 95 % interval {ends}{caution})"
