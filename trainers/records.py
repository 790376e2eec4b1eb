"""Files of a trained model: the hash of its inputs, its weights, its record and its curves.

A trained model lies in a folder named `<stage>-<first 12 digits of its input hash>`. The hash covers everything that
decides the result: the data, the settings, and the weights of the models that the training starts from. The same
inputs therefore need no second training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from girl_features.generator.checkpoint import (
    RECORD_NAME,
    GeneratorRecord,
    adapter_base,
    adapter_hash,
    is_adapter,
    read_record,
    weights_hash,
    write_record,
)

_log = logging.getLogger(__name__)


def hash_inputs(settings: Mapping[str, object], *parts: pl.DataFrame | bytes) -> str:
    """Return the SHA-256 of the settings and of the rows of each table in `parts`; bytes mark the start of a table."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, bytes):
            digest.update(part)
            continue
        for row in part.iter_rows():
            digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: version(name) for name in names}


def tuned_weights(record: GeneratorRecord) -> str:
    """Return the hash that identifies a generator: its adapter's where it has one, else its weights'."""
    return record.adapter_sha256 or record.weights_sha256


def find_trained(folders: Iterable[Path], inputs: str, record_name: str) -> Path | None:
    """Return the first folder whose record has this hash, or None.

    Raises:
        CheckpointError: a record cannot be read, or the weights beside it have changed.
    """
    return next((folder for folder in folders if read_record(folder, record_name).inputs_sha256 == inputs), None)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save model and tokenizer in `folder`, after deleting whatever an earlier run left there."""
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_trained(
    model: Any, tokenizer: Any, record: GeneratorRecord, folder: Path, record_name: str = RECORD_NAME
) -> GeneratorRecord:
    """Save a model with its record in `folder`, and return the record, completed by the hashes of the weights.

    A LoRA adapter's `weights_sha256` is that of its base.
    """
    save_model(model, tokenizer, folder)
    if is_adapter(folder):
        hashes = {"weights_sha256": weights_hash(adapter_base(folder)), "adapter_sha256": adapter_hash(folder)}
    else:
        hashes = {"weights_sha256": weights_hash(folder)}
    record = record.model_copy(update=hashes)
    write_record(folder, record, record_name)
    return record


def publish(work: Path, final: Path) -> None:
    """Rename the complete folder `work`/model to `final`, which it replaces."""
    shutil.rmtree(final, ignore_errors=True)
    (work / "model").rename(final)


def write_curves(folder: Path, rows: Sequence[Mapping[str, float]], x: str, panels: Sequence[Sequence[str]]) -> None:
    """Write the metrics of each step or iteration to `metrics.parquet` and, if matplotlib is installed, `curves.png`.

    Args:
        folder: where to write.
        rows: the metrics. A name that a row lacks is null in the file.
        x: name of the metric that counts the steps or iterations.
        panels: names of the metrics in each panel of the picture. Names that no row has are left out.
    """
    table = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    table.write_parquet(folder / "metrics.parquet")
    known_panels = [[name for name in panel if name in table.columns] for panel in panels]
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
            points = table.select(x, name).drop_nulls()
            axes.plot(points[x], points[name], label=name, marker="." if len(points) < 30 else None)
        axes.set_xlabel(x)
        axes.legend(frameon=False)
    figure.savefig(folder / "curves.png", dpi=110)
