"""Pictures of an experiment: lift with intervals, calibration, AUC by number of decisions, AUC by k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from girl_features.errors import require
from girl_features.evaluation.plots import draw_gains, save_figure, style
from girl_features.evaluation.results import ResultRow
from girl_features.lab.experiment.config import Cell
from girl_features.lab.experiment.results import DataResults, with_all_labels
from girl_features.lab.experiment.row_names import POOLINGS, parse_pooling, parse_row

_MOST_ROWS = 4  # rows drawn in one panel


def plot_data(results: DataResults, folder: Path) -> list[tuple[str, str]]:
    """Write the PNGs of one data set to `folder`, and return the file name and the caption of each."""
    plots = (
        ("lift", "gain in AUC over base, 95 % intervals over test seekers", _draw_lift),
        ("calibration", "predicted against observed match rate, in ten bins", _draw_calibration),
        ("decisions", "AUC by the seeker's decisions in the training window", _draw_by_decisions),
        ("k", "AUC by the number of generated JDs a CV", _draw_by_k),
        ("labels", "AUC by the number of labelled decisions", _draw_by_labels),
    )
    prefix = "Simulation: " if results.prepared.simulation else ""
    name = results.prepared.name
    written = []
    for plot_name, caption, draw in plots:
        figure = require("matplotlib.figure", "rank").Figure(figsize=(8, 4.5), dpi=120)
        panel = figure.subplots()
        draw(panel, results)
        handles, _ = panel.get_legend_handles_labels()
        if not handles:
            continue  # the experiment has nothing for this picture
        panel.legend(frameon=False, fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        panel.set_title(f"{prefix}{name}: {caption}", fontsize=10, parse_math=False)
        figure.tight_layout()
        file = f"{name}-{plot_name}.png"
        save_figure(figure, folder / file)
        written.append((file, caption))
    return written


def _draw_lift(panel: Any, results: DataResults) -> None:
    gains = [row for row in with_all_labels(results.rows) if row.slice == "all" and row.auc_gain is not None]
    names = list(dict.fromkeys(row.row for row in gains))
    for index, predictor in enumerate(dict.fromkeys(row.predictor for row in gains)):
        rows = [row for row in gains if row.predictor == predictor]
        draw_gains(panel, rows, [names.index(row.row) + 0.12 * index for row in rows], predictor, index)
    panel.axvline(0, color="0.35", linewidth=1)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("AUC less that of base, same predictor")


def _draw_calibration(panel: Any, results: DataResults) -> None:
    generators = results.prepared.generators
    predictor = next((cell.predictor for cell in results.calibration if cell.row in generators), "")
    cells = [Cell(predictor, row) for row in ("base", *generators)]
    for index, cell in enumerate([cell for cell in cells if cell in results.calibration][:_MOST_ROWS]):
        curve = results.calibration[cell]
        colour, marker = style(index)
        label = f"{cell.predictor}, {cell.row}"
        panel.plot(curve.mean_probability, curve.match_rate, color=colour, marker=marker, markersize=4, label=label)
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    panel.set_xlabel("mean predicted probability")
    panel.set_ylabel("matches among them")


def _draw_by_decisions(panel: Any, results: DataResults) -> None:
    generators = results.prepared.generators
    slices = [name for name in dict.fromkeys(row.slice for row in results.rows) if name.endswith(" decisions")]
    predictor = next((row.predictor for row in results.rows if row.row in generators), "")
    for index, name in enumerate(["base", *generators][:_MOST_ROWS]):
        points = [
            (slices.index(row.slice) + 0.08 * (index - 1), row)
            for row in results.rows
            if (row.predictor, row.row) == (predictor, name) and row.slice in slices and row.auc is not None
        ]
        if points:
            _draw_auc(panel, points, f"{predictor}, {name}", index)
    panel.set_xticks(range(len(slices)), slices)
    panel.set_ylabel("AUC")


def _draw_by_k(panel: Any, results: DataResults) -> None:
    lines: dict[tuple[str, str], list[tuple[int, ResultRow]]] = {}  # (predictor, pooling) -> k and row
    for row in results.rows:
        pooling = parse_pooling(row.row)
        if row.slice == "all" and pooling is not None:
            lines.setdefault((row.predictor, pooling.pooling), []).append((pooling.k, row))
    order = sorted(lines, key=lambda line: (line[0], POOLINGS.index(line[1])))
    for index, (predictor, pooling_name) in enumerate(order):
        shift = 1 + 0.02 * (index % 4)
        by_k = sorted(lines[predictor, pooling_name], key=lambda point: point[0])
        _draw_auc(panel, [(k * shift, row) for k, row in by_k], f"{predictor}, {pooling_name}", index)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("generated JDs a CV")
    panel.set_ylabel("AUC")


def _draw_by_labels(panel: Any, results: DataResults) -> None:
    """Draw the rows of the first predictor with several numbers of labels, and untrained scores as flat lines."""
    n_train = len(results.prepared.base.train.labels)
    rows = [row for row in results.rows if row.slice == "all" and row.auc is not None]
    predictor = next((row.predictor for row in rows if parse_row(row.row).n_labels is not None), None)
    lines: dict[str, list[tuple[float, ResultRow]]] = {}
    for row in rows:
        if row.predictor == predictor:
            lines.setdefault(row.row.partition("@")[0], []).append((parse_row(row.row).n_labels or n_train, row))
    lines = {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items() if len(points) > 1}
    if not lines:
        return
    for index, (name, points) in enumerate(lines.items()):
        _draw_auc(panel, [(n * (1 + 0.02 * index), row) for n, row in points], f"{predictor}, {name}", index)
    for index, row in enumerate(row for row in rows if row.predictor in ("alone", "cosine")):
        colour, _ = style(index)
        panel.axhline(row.auc, color=colour, linewidth=0.8, linestyle=":", label=f"{row.predictor}, {row.row}")
    panel.set_xscale("log")
    panel.set_xlabel("labelled decisions in the training window")
    panel.set_ylabel("AUC")


def _draw_auc(panel: Any, points: list[tuple[float, ResultRow]], label: str, index: int) -> None:
    """Draw a line through the AUCs at these x, with whiskers where there are intervals."""
    colour, marker = style(index)
    for x, row in points:
        if row.auc_low is not None:
            panel.vlines(x, row.auc_low, row.auc_high, color=colour)
    panel.plot([x for x, _ in points], [row.auc for _, row in points], color=colour, marker=marker, label=label)
