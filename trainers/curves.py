"""Metrics of a training run as a Parquet file and as a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

_log = logging.getLogger(__name__)


def write_curves(folder: Path, rows: Sequence[Mapping[str, float]], x: str, panels: Sequence[Sequence[str]]) -> None:
    """Write `metrics.parquet` and, if matplotlib is installed, `curves.png`.

    Args:
        folder: where to write.
        rows: the metrics of each step or iteration. A name that a row lacks is null in the file.
        x: name of the metric that counts the steps or iterations.
        panels: names of the metrics in each panel of the picture. Names that no row has are left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pl.DataFrame(columns, strict=False).write_parquet(folder / "metrics.parquet")
    known_panels = [[name for name in panel if name in columns] for panel in panels]
    known_panels = [panel for panel in known_panels if panel]
    if not known_panels:
        return
    try:
        from matplotlib.figure import Figure  # unlike pyplot, it has no global state and opens no window
    except ModuleNotFoundError:
        _log.warning("no curves.png: matplotlib is not installed (pip install 'girl-features[rank]')")
        return
    figure = Figure(figsize=(4.5 * len(known_panels), 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(known_panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, known_panels, strict=True):
        for name in panel:
            points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel(x)
        axes.legend(frameon=False)
    figure.savefig(folder / "curves.png", dpi=110)
