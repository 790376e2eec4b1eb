"""One picture of a comparison: gain in AUC with its interval, by predictor and slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from girl_features.errors import UndefinedMetricError, require
from girl_features.evaluation.results import Comparison, ResultRow

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart with colour-blind eyes (Okabe and Ito)
_MARKERS = ("o", "s", "^", "D")
_SLICE_NAMES = {"all": "all test pairs", "cold": "cold-start seekers"}


def plot_gains(comparison: Comparison, path: Path, simulation: bool = False) -> None:
    """Write a PNG of dots and whiskers: a line a predictor, a panel a slice, a colour a row; base is at zero.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UndefinedMetricError: no cell has a gain to show.
    """
    figure_module = require("matplotlib.figure", "rank")
    gains = [row for row in comparison.rows if row.auc_gain is not None]
    if not gains:
        raise UndefinedMetricError("no row has a gain over base: there is nothing to plot")
    predictors = list(dict.fromkeys(row.predictor for row in gains))
    slices = list(dict.fromkeys(row.slice for row in gains))
    names = list(dict.fromkeys(row.row for row in gains))
    figure = figure_module.Figure(figsize=(1.2 + 4.0 * len(slices), 1.7 + 0.42 * len(predictors)), dpi=150)
    panels = figure.subplots(1, len(slices), sharex=True, sharey=True, squeeze=False)[0]
    for panel, slice_name in zip(panels, slices, strict=True):
        panel.axvline(0, color="0.35", linewidth=1)
        for index, name in enumerate(names):
            chosen = [row for row in gains if (row.slice, row.row) == (slice_name, name)]
            shift = 0.24 * (index - (len(names) - 1) / 2)
            heights = [predictors.index(row.predictor) + shift for row in chosen]
            _dots(panel, chosen, heights, index)
        panel.set_title(_SLICE_NAMES.get(slice_name, slice_name), fontsize=10)
        panel.set_xlabel("gain in AUC over base")
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(predictors)), predictors)
    panels[0].set_ylim(len(predictors) - 0.5, -0.5)  # first predictor on top
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=len(names), frameon=False, fontsize=9)
    prefix = "Simulation: " if simulation else ""
    figure.suptitle(
        f"{prefix}{comparison.meta['data']}, 95 % intervals over test seekers", fontsize=11, parse_math=False
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _dots(panel: Any, rows: list[ResultRow], heights: list[float], index: int) -> None:
    colour = _COLOURS[index % len(_COLOURS)]
    known = [(row, height) for row, height in zip(rows, heights, strict=True) if row.auc_gain_low is not None]
    panel.hlines(
        [height for _, height in known],
        [row.auc_gain_low for row, _ in known],
        [row.auc_gain_high for row, _ in known],
        color=colour,
        linewidth=1.6,
    )
    panel.plot(
        [row.auc_gain for row in rows],
        heights,
        _MARKERS[index % len(_MARKERS)],
        color=colour,
        markersize=5,
        label=rows[0].row if rows else None,
    )
