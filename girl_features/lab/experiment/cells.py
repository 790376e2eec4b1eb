"""One fitted ranker's test scores as one small Parquet file, named by the hash of all that went into it."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import ShapeError, UndefinedMetricError
from girl_features.evaluation.compare import RankingParts
from girl_features.ranker import PairTexts, Ranker, TextRanker
from girl_features.store.files import write_whole

_PACKAGES = ("numpy", "torch", "lightgbm", "transformers", "sentence-transformers")
_META = b"girl_cell"


class CellId(NamedTuple):
    """Which cell of the tables a fit belongs to."""

    data: str
    predictor: str
    row: str
    seed: int


class TextParts(NamedTuple):
    """Ids, texts and outcomes of the three ranking windows."""

    texts: dict[str, PairTexts]  # part -> pairs
    labels: dict[str, np.ndarray]  # part -> (n,) bool


class Job(NamedTuple):
    """One fit. Travels to worker processes, so `make` has to be importable by name (or a partial of such)."""

    id: CellId
    path: Path
    make: Callable[[], Ranker | TextRanker]
    parts: RankingParts | TextParts


def code_hash(paths: Iterable[Path]) -> str:
    """Hash of source files and of the versions of the packages that fit rankers."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name in _PACKAGES:
        try:
            digest.update(f"{name}=={version(name)}\0".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()


def parts_hash(parts: RankingParts | TextParts) -> str:
    """Hash of everything a ranker is given: vectors, tiers, contract, texts, ids and labels of every part."""
    digest = hashlib.sha256()
    if isinstance(parts, TextParts):
        for name, texts in parts.texts.items():
            _update(digest, parts.labels[name])
            for column in texts:
                for value in column:
                    encoded = repr(value).encode("utf-8", "backslashreplace")
                    digest.update(f"{len(encoded)}:".encode() + encoded)
        return digest.hexdigest()
    for part in parts:
        digest.update(part.features.contract.encode())
        for array in (*part.features[:4], part.labels):
            _update(digest, array)
    return digest.hexdigest()


def cell_path(folder: Path, cell: CellId, inputs: str, code: str, settings: str) -> Path:
    """Where the scores of this fit lie, or will: the name changes with anything that could change them."""
    key = json.dumps([*cell, inputs, code, settings])
    return folder / f"cell-{hashlib.sha256(key.encode()).hexdigest()[:24]}.parquet"


def run_job(job: Job) -> float:
    """Fit, score the test part, and write the cell; seconds taken.

    Raises:
        ShapeError, UndefinedMetricError: the ranker returned something other than one probability a pair.
    """
    started = time.monotonic()
    ranker, parts = job.make(), job.parts
    if isinstance(parts, TextParts):
        texts, labels = parts.texts, parts.labels
        ranker.fit(texts["train"], labels["train"], texts["valid"], labels["valid"])  # type: ignore[arg-type]
        scores, n = np.asarray(ranker.score(texts["test"]), np.float64), texts["test"].n_pairs  # type: ignore[arg-type]
    else:
        train, valid, test = parts
        ranker.fit(train.features, train.labels, valid.features, valid.labels)  # type: ignore[arg-type]
        scores, n = np.asarray(ranker.score(test.features), np.float64), test.features.n_pairs  # type: ignore[arg-type]
    name = f"ranker {job.id.predictor!r}, row {job.id.row!r}, seed {job.id.seed}"
    if scores.shape != (n,):
        raise ShapeError(f"{name} returned scores of shape {scores.shape}, wanted {(n,)}")
    if not ((scores >= 0) & (scores <= 1)).all():  # False for NaN too
        raise UndefinedMetricError(f"{name} returned scores that are not probabilities from 0 to 1")
    seconds = time.monotonic() - started
    write_cell(job.path, job.id, scores, seconds)
    return seconds


def write_cell(path: Path, cell: CellId, scores: np.ndarray, seconds: float) -> None:
    """Write (n,) scores, whole or not at all."""
    n = len(scores)
    columns = {
        name: pa.array([value] * n).dictionary_encode() for name, value in zip(CellId._fields, cell, strict=True)
    }
    table = pa.table({**columns, "pair": np.arange(n), "score": scores})
    meta = json.dumps({**cell._asdict(), "seconds": seconds})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_META: meta.encode()}), buffer, write_page_checksum=True)
    write_whole(path, buffer.getbuffer())


def read_cell(path: Path, n: int) -> tuple[np.ndarray, float] | None:
    """(n,) scores and the seconds they took; None where the file is absent, damaged or of other length."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        seconds = float(json.loads(table.schema.metadata[_META])["seconds"])
        scores = table["score"].to_numpy().astype(np.float64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return (scores, seconds) if scores.shape == (n,) else None


def _update(digest: hashlib._Hash, array: np.ndarray) -> None:
    digest.update(f"{array.shape}{array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
