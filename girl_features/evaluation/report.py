"""A comparison for people: the paper's tables III and IV on the terminal and as a Markdown results page."""

from __future__ import annotations

import datetime
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from girl_features.evaluation.results import BASE, DEFINITIONS, Comparison, ResultRow

SLICE_TITLES = {
    "all": "all test pairs (as table III of GIRL)",
    "cold": "cold-start seekers (as table IV of GIRL)",
}
_RESULT_HEADER = ("predictor", "row", "AUC", "AUC, 95 %", "gain", "gain, 95 %", "LogLoss", "verdict", "pairs")
_SPREAD_HEADER = (
    *("slice", "predictor", "row", "SD of AUC", "SD of gain"),
    *("LogLoss - base", "LogLoss - base, 95 %", "Brier", "ECE"),
)
_WIDE = 100  # columns of a terminal that shows every interval on one line
HOW_TO_READ = (
    "Columns headed 95 % hold percentile intervals of a paired bootstrap: test seekers are drawn with replacement, "
    "each with all of their pairs, and the seeds of the rankers too; metrics are averaged over the seeds drawn. An "
    "interval covers the sampling of test seekers and seeds: not other training data, another run of the generator's "
    "training, or another market."
)


class _Grid(NamedTuple):
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str]


def terminal_tables(comparison: Comparison, simulation: bool = False, wide: bool = False) -> list[Table]:
    """One rich table a slice; `simulation` is said in each title. `wide` adds the interval of each AUC."""
    dropped = {"pairs"} if wide else {"pairs", "AUC, 95 %"}  # the title gives the pairs
    tables = []
    for grid in _result_grids(comparison, simulation):
        caption = Text("\n".join(grid.notes)) if grid.notes else None
        title = Text(grid.title, style="bold")
        table = Table(
            title=title, caption=caption, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
        )
        kept = [index for index, name in enumerate(grid.header) if name not in dropped]
        for index in kept:
            name = grid.header[index]
            table.add_column(Text(name), justify="left" if name in ("predictor", "row", "verdict") else "right")
        for row in grid.rows:
            table.add_row(*(Text(row[index]) for index in kept))
        tables.append(table)
    return tables


def print_comparison(comparison: Comparison, simulation: bool = False, console: Console | None = None) -> None:
    """Print the tables and the warning about chance to stdout, or to `console`."""
    console = console or Console()
    for table in terminal_tables(comparison, simulation, wide=console.width >= _WIDE):
        console.print(table)
        console.print()
    console.print(Text(chance_warning(comparison)))


def markdown_tables(comparison: Comparison, simulation: bool = False) -> str:
    """The same tables in Markdown."""
    return "\n".join(_markdown(grid) for grid in _result_grids(comparison, simulation))


def findings(comparison: Comparison) -> list[str]:
    """A plain sentence for each predictor and row: was a lift shown, a loss, or neither, on each slice."""
    cells: dict[str, list[ResultRow]] = {}
    for row in comparison.rows:
        if row.row != BASE:
            cells.setdefault(f"{row.predictor}, {row.row} over base", []).append(row)
    return [f"{name}: {'; '.join(map(_finding, rows))}." for name, rows in cells.items()]


def chance_warning(comparison: Comparison) -> str:
    """How many of this many verdicts chance alone would make, were there nothing to find."""
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
    """Write the results page.

    Args:
        path: of the page; its folder is made if absent.
        comparison: what to report; seeds and bootstrap settings come from its `meta`.
        command: that made the results, as typed.
        machine: see `girl_features.evaluation.machine.machine_description`.
        date: of the run.
        windows: name of each time window to its description.
        contracts: row to a description of the contract its features were made by.
        notes: further paragraphs.
        simulation: the data are simulated; said in every headline.
        plot: link to a picture, relative to the page.
    """
    meta = comparison.meta
    seeds = ", ".join(map(str, meta["seeds"]))
    facts = {
        "Date": date.isoformat(),
        "Machine": machine,
        "Seeds": f"{seeds} (rankers); {meta['bootstrap_seed']} (bootstrap, {meta['n_bootstrap']} resamples)",
    }
    facts |= {f"Pairs, {name}": _counts(part) for name, part in meta["parts"].items()}
    facts |= {f"Window, {name}": text for name, text in windows.items()}
    facts |= {f"Contract, {row}": text for row, text in contracts.items()}
    title = f"Results on {meta['data']}" + (" (simulation)" if simulation else "")
    blocks = [
        f"# {inline(title)}",
        "\n".join(f"    {line}" for line in command.splitlines()),
        _list([f"**{inline(name)}:** {inline(text)}" for name, text in facts.items()]),
        "## What was shown",
        _list([inline(sentence) for sentence in [*findings(comparison), chance_warning(comparison)]]),
        markdown_tables(comparison, simulation),
        *([f"![Gain in AUC over base, with intervals]({plot})"] if plot else []),
        _markdown(_spread_grid(comparison, simulation)),
        "## How to read this",
        HOW_TO_READ,
        _list([f"`{name}`: {text}" for name, text in DEFINITIONS.items()]),
        *(["## Notes", _list([inline(note) for note in notes])] if notes else []),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(block.strip("\n") for block in blocks) + "\n", encoding="utf-8")


def _result_grids(comparison: Comparison, simulation: bool) -> list[_Grid]:
    prefix = "Simulation: " if simulation else ""
    grids = []
    for name in dict.fromkeys(row.slice for row in comparison.rows):
        rows = [row for row in comparison.rows if row.slice == name]
        size = f"{rows[0].n} pairs of {rows[0].n_seekers} seekers"
        title = f"{prefix}{comparison.meta['data']}, {SLICE_TITLES.get(name, name)}, {size}"
        notes = list(dict.fromkeys(row.note for row in rows if row.note is not None))
        n_redrawn = comparison.meta["n_redrawn"].get(name)
        if n_redrawn:
            notes.append(f"{n_redrawn} resamples lacked a class and were drawn again")
        grids.append(_Grid(title, _RESULT_HEADER, [_result_cells(row) for row in rows], notes))
    return grids


def _result_cells(row: ResultRow) -> tuple[str, ...]:
    return (
        row.predictor,
        row.row,
        number_text(row.auc, ".4f"),
        interval_text(row.auc_low, row.auc_high, ".4f"),
        number_text(row.auc_gain, "+.4f"),
        interval_text(row.auc_gain_low, row.auc_gain_high, "+.4f"),
        number_text(row.logloss, ".4f"),
        row.verdict or "",
        str(row.n),
    )


def _spread_grid(comparison: Comparison, simulation: bool) -> _Grid:
    title = "Spread over seeds, and calibration" + (" (simulation)" if simulation else "")
    rows = [
        (
            row.slice,
            row.predictor,
            row.row,
            number_text(row.auc_seed_sd, ".4f"),
            number_text(row.auc_gain_seed_sd, ".4f"),
            number_text(row.logloss_gain, "+.4f"),
            interval_text(row.logloss_gain_low, row.logloss_gain_high, "+.4f"),
            number_text(row.brier, ".4f"),
            number_text(row.ece, ".4f"),
        )
        for row in comparison.rows
    ]
    return _Grid(title, _SPREAD_HEADER, rows, ["LogLoss - base below 0 is better."])


def _finding(row: ResultRow) -> str:
    where = {"all": "on all pairs", "cold": "on cold-start seekers"}.get(row.slice, f"on {row.slice}")
    if row.verdict is None:
        return f"nothing can be said {where} ({row.note})"
    ends = interval_text(row.auc_gain_low, row.auc_gain_high, "+.4f")
    size = f"AUC {number_text(row.auc_gain, '+.4f')}, 95 % interval {ends}"
    outcome = {"better": "a lift", "worse": "a loss", "not shown": "no lift shown"}[row.verdict]
    return f"{outcome} {where} ({size}{_seed_caution(row)})"


def _seed_caution(row: ResultRow) -> str:
    """A warning where a gain is shown on one seed: the interval knows nothing of others."""
    is_warned = row.verdict in ("better", "worse") and row.auc_gain_seed_sd is None
    return "; one seed only: another may differ" if is_warned else ""


def _counts(part: Mapping[str, int]) -> str:
    return (
        f"{part['n']} of {part['n_seekers']} seekers, {part['n_matched']} matched, "
        f"{part['n_cold_start']} cold-start, {part['n_with_generated_jd']} with a generated JD"
    )


def number_text(value: float | None, form: str) -> str:
    """The number in this format; nothing for None."""
    return "" if value is None else format(value, form)


def interval_text(low: float | None, high: float | None, form: str) -> str:
    """Both ends in this format; nothing where one is None."""
    return "" if low is None or high is None else f"{low:{form}}, {high:{form}}"


def cells_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every cell stays one cell, whatever it holds."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(inline(cell) for cell in line) + " |" for line in lines)


def _markdown(grid: _Grid) -> str:
    table = cells_table(grid.header, grid.rows)
    notes = f"\n{_list([inline(note) for note in grid.notes])}\n" if grid.notes else ""
    return f"## {inline(grid.title)}\n\n{table}\n{notes}"


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def inline(text: str) -> str:
    """Text that stays one line and one cell, and shows HTML as typed."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
