"""One picture of a comparison: gain in AUC with its interval, by predictor and slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from girl_features.errors import ConfigError, UndefinedMetricError, require
from girl_features.evaluation.results import SLICE_NAMES, Comparison, ResultRow
from girl_features.store.user_files import make_way

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # safe for colour-blind eyes: Okabe, Ito
_MAKER = "girl-features"  # in the metadata of each PNG
_MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_gains(comparison: Comparison, path: Path, simulation: bool = False) -> None:
    """Write a PNG of dots and whiskers: a line for each predictor, a panel for each slice, a colour for each row.

    Raises:
        UndefinedMetricError: no cell has a gain to draw.
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
        for index, name in enumerate(names):
            rows = [row for row in gains if (row.slice, row.row) == (slice_name, name)]
            shift = 0.24 * (index - (len(names) - 1) / 2)
            draw_gains(panel, rows, [predictors.index(row.predictor) + shift for row in rows], name, index)
        panel.axvline(0, color="0.35", linewidth=1)
        panel.set_title(SLICE_NAMES.get(slice_name, slice_name), fontsize=10)
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
    title = f"{prefix}{comparison.meta['data']}, 95 % intervals over test seekers"
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG that names this package; a file there that does not is kept as NAME.bak-TIME. Make the folder.

    Raises:
        ConfigError: the picture cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path, lambda picture: _MAKER.encode() in picture.read_bytes()[:1000])
        figure.savefig(path, metadata={"Software": _MAKER})
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another page") from error


def draw_gains(panel: Any, rows: Sequence[ResultRow], heights: Sequence[float], label: str, index: int) -> None:
    """Draw the gains in AUC as dots at these heights, with whiskers where there are intervals."""
    colour, marker = style(index)
    for row, height in zip(rows, heights, strict=True):
        if row.auc_gain_low is not None:
            panel.hlines(height, row.auc_gain_low, row.auc_gain_high, color=colour, linewidth=1.6)
    gains = [row.auc_gain for row in rows]
    panel.plot(gains, heights, linestyle="", marker=marker, color=colour, markersize=5, label=label)


def style(index: int) -> tuple[str, str]:
    """Return colour and marker of the series with this number."""
    return _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
