"""Pictures of an experiment: lift with intervals, calibration, AUC by number of decisions, AUC by k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from girl_features.errors import require
from girl_features.evaluation.results import ResultRow
from girl_features.lab.experiment.config import BASELINE_ROW, POOLINGS, Cell, pooled
from girl_features.lab.experiment.run import DataResults

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
_MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_data(results: DataResults, folder: Path) -> list[tuple[str, str]]:
    """Write the PNGs of one data set to `folder`; each file's name and what it shows.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plots = (
        ("lift", "gain in AUC over base, 95 % intervals over test seekers", _lift),
        ("calibration", "predicted against observed match rate, in ten bins", _calibration),
        ("decisions", "AUC by the seeker's decisions in the training window", _by_decisions),
        ("k", "AUC by the number of generated JDs a CV", _by_k),
    )
    written = []
    for name, caption, draw in plots:
        figure = require("matplotlib.figure", "rank").Figure(figsize=(8, 4.5), dpi=120)
        panel = figure.subplots()
        if not draw(panel, results):
            continue
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        prefix = "Simulation: " if results.prepared.simulation else ""
        panel.set_title(f"{prefix}{results.prepared.name}: {caption}", fontsize=10, parse_math=False)
        figure.tight_layout()
        folder.mkdir(parents=True, exist_ok=True)
        file = f"{results.prepared.name}-{name}.png"
        figure.savefig(folder / file)
        written.append((file, caption))
    return written


def _lift(panel: Any, results: DataResults) -> bool:
    gains = [row for row in results.rows if row.slice == "all" and row.auc_gain is not None]
    names = list(dict.fromkeys(row.row for row in gains))
    for index, predictor in enumerate(dict.fromkeys(row.predictor for row in gains)):
        own = [row for row in gains if row.predictor == predictor]
        heights = [names.index(row.row) + 0.12 * index for row in own]
        low = [row.auc_gain_low if row.auc_gain_low is not None else row.auc_gain for row in own]
        high = [row.auc_gain_high if row.auc_gain_high is not None else row.auc_gain for row in own]
        style = {"color": _COLOURS[index % 6]}
        panel.hlines(heights, low, high, **style)
        panel.plot([row.auc_gain for row in own], heights, _MARKERS[index % 6], label=predictor, markersize=4, **style)
    panel.axvline(0, color="0.35", linewidth=1)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("AUC less that of base, same predictor")
    panel.legend(frameon=False, fontsize=8)
    return bool(gains)


def _calibration(panel: Any, results: DataResults) -> bool:
    rows = ["base", *results.prepared.arms]
    predictor = next((cell.predictor for cell in results.calibration if cell.row in results.prepared.arms), "")
    shown = [Cell(predictor, row) for row in rows if Cell(predictor, row) in results.calibration][:4]
    for index, cell in enumerate(shown):
        curve = results.calibration[cell]
        style = {"color": _COLOURS[index % 6], "marker": _MARKERS[index % 6], "markersize": 4}
        panel.plot(curve.mean_probability, curve.match_rate, label=f"{cell.predictor}, {cell.row}", **style)
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    panel.set_xlabel("mean predicted probability")
    panel.set_ylabel("matches among them")
    panel.legend(frameon=False, fontsize=8)
    return bool(shown)


def _by_decisions(panel: Any, results: DataResults) -> bool:
    slices = [s for s in dict.fromkeys(row.slice for row in results.rows) if s.endswith(" decisions")]
    predictor = next((row.predictor for row in results.rows if row.row in results.prepared.arms), "")
    names = ["base", *results.prepared.arms][:4]
    drawn = False
    for index, name in enumerate(names):
        own = {row.slice: row for row in results.rows if (row.predictor, row.row) == (predictor, name)}
        known = [(i, own[s]) for i, s in enumerate(slices) if s in own and own[s].auc is not None]
        _whiskers(panel, [(i + 0.08 * (index - 1), row) for i, row in known], f"{predictor}, {name}", index)
        drawn = drawn or bool(known)
    panel.set_xticks(range(len(slices)), slices)
    panel.set_ylabel("AUC")
    panel.legend(frameon=False, fontsize=8)
    return drawn


def _by_k(panel: Any, results: DataResults) -> bool:
    cells = [(row, pooled(row.row)) for row in results.rows if row.slice == "all" and row.row != BASELINE_ROW]
    found = [(row, one) for row, one in cells if one is not None]
    lines = dict.fromkeys((row.predictor, one.pooling) for row, one in found)
    for index, (predictor, pooling) in enumerate(sorted(lines, key=lambda line: (line[0], POOLINGS.index(line[1])))):
        mine = [(one.k, row) for row, one in found if (row.predictor, one.pooling) == (predictor, pooling)]
        own = sorted(mine, key=lambda point: point[0])
        shift = 1 + 0.02 * (index % 4)
        _whiskers(panel, [(k * shift, row) for k, row in own], f"{predictor}, {pooling}", index)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("generated JDs a CV")
    panel.set_ylabel("AUC")
    if found:
        panel.legend(frameon=False, fontsize=8)
    return bool(found)


def _whiskers(panel: Any, points: list[tuple[float, ResultRow]], label: str, index: int) -> None:
    style = {"color": _COLOURS[index % 6]}
    ends = [(x, row) for x, row in points if row.auc_low is not None]
    panel.vlines([x for x, _ in ends], [r.auc_low for _, r in ends], [r.auc_high for _, r in ends], **style)
    panel.plot([x for x, _ in points], [r.auc for _, r in points], marker=_MARKERS[index % 6], label=label, **style)
