"""Test scores of one fitted ranker, in a Parquet file named by a hash of everything that decides the scores."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.evaluation.compare import RankingParts, check_scores
from girl_features.ranker import PairTexts, Ranker, TextRanker
from girl_features.store.files import write_whole

_META = b"girl_cell"


class FitId(NamedTuple):
    """Key of the scores of one fit."""

    data: str
    predictor: str
    row: str
    seed: int


class LabelledTexts(NamedTuple):
    """Ids, texts and outcomes of n pairs."""

    features: PairTexts
    labels: np.ndarray  # (n,) bool


Parts = RankingParts | Sequence[LabelledTexts]  # of the train, valid and test windows


class FitTask(NamedTuple):
    """One fit to make. Workers get it pickled, so `make` is a module-level function or a partial of one."""

    id: FitId
    path: Path
    make: Callable[[str, int], Ranker | TextRanker]  # from predictor and seed
    parts: Parts


def parts_hash(parts: Parts) -> str:
    """Return a hash of a ranker's input: vectors, tiers and contract, or texts and ids; and the labels of each part."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, LabelledTexts):
            arrays = [part.labels]
            for value in chain.from_iterable(part.features):
                encoded = repr(value).encode("utf-8", "backslashreplace")
                digest.update(f"{len(encoded)}:".encode() + encoded)
        else:
            digest.update(part.features.contract.encode())
            features = part.features
            digest.update(repr(features.column_names).encode())
            columns = [] if features.columns is None else [features.columns.values]
            arrays = [*features[:4], *columns, part.labels]
        for array in arrays:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def fit_path(folder: Path, fit: FitId, inputs: str, code: str, settings: str) -> Path:
    """Return the file of this fit's scores. `inputs` and `code` are hashes, and `settings` is any text."""
    key = json.dumps([*fit, inputs, code, settings])
    return folder / f"cell-{hashlib.sha256(key.encode()).hexdigest()[:24]}.parquet"


def run_fit(task: FitTask) -> None:
    """Fit the ranker, score the test part, and write the scores and the seconds taken."""
    started = time.monotonic()
    ranker: Any = task.make(task.id.predictor, task.id.seed)  # matches the type of task.parts
    train, valid, test = task.parts
    ranker.fit(train.features, train.labels, valid.features, valid.labels)
    name = f"ranker {task.id.predictor!r}, row {task.id.row!r}, seed {task.id.seed}"
    scores = check_scores(ranker.score(test.features), len(test.labels), name)
    write_fit(task.path, task.id, scores, time.monotonic() - started)


def write_fit(path: Path, fit: FitId, scores: np.ndarray, seconds: float) -> None:
    """Write (n,) scores, either the whole file or nothing."""
    n = len(scores)
    columns = {name: pa.array([value] * n).dictionary_encode() for name, value in fit._asdict().items()}
    table = pa.table({**columns, "pair": np.arange(n), "score": scores})
    meta = json.dumps({**fit._asdict(), "seconds": seconds})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_META: meta.encode()}), buffer, write_page_checksum=True)
    write_whole(path, buffer.getbuffer())


def read_fit(path: Path, n: int) -> tuple[np.ndarray, float] | None:
    """Return (n,) scores and the seconds the fit took, or None if the file is absent, damaged or of another length."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        seconds = float(json.loads(table.schema.metadata[_META])["seconds"])
        scores = table["score"].to_numpy().astype(np.float64)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return (scores, seconds) if scores.shape == (n,) else None
