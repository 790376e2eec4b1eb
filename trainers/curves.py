"""A run's metrics as Parquet, one row a step or iteration, and as one picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

_log = logging.getLogger(__name__)


def write_curves(folder: Path, rows: Sequence[Mapping[str, float]], x: str, panels: Sequence[Sequence[str]]) -> None:
    """Write `metrics.parquet` and, where matplotlib is installed, `curves.png` into `folder`.

    Args:
        folder: of the run's result.
        rows: one mapping a step or iteration; a name absent from a row is null there.
        x: the name that counts them.
        panels: names to draw together; those that no row has are left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pl.DataFrame(columns, strict=False).write_parquet(folder / "metrics.parquet")
    drawn = [[name for name in panel if name in columns] for panel in panels]
    drawn = [panel for panel in drawn if panel]
    if not drawn:
        return
    try:
        from matplotlib.figure import Figure  # of its own, so that no global state or window is touched
    except ModuleNotFoundError:
        _log.warning("no curves.png: matplotlib is not installed (pip install 'girl-features[rank]')")
        return
    figure = Figure(figsize=(4.5 * len(drawn), 3.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        for name in panel:
            points = [(row[x], row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel(x)
        axes.legend(frameon=False)
    figure.savefig(folder / "curves.png", dpi=110)
