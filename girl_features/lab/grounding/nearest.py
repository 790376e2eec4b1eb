"""The nearest of many vectors by cosine: exact up to a hundred thousand, an HNSW graph (usearch) beyond."""

from __future__ import annotations

from typing import Any

import numpy as np

from girl_features.errors import require
from girl_features.vectors.similarity import Neighbours, checked_unit_rows, nearest

EXACT_LIMIT = 100_000  # vectors: below, one block of products is fast enough and never wrong
_MIN_ASKED = 64


def make_index(vectors: np.ndarray, exact_limit: int = EXACT_LIMIT) -> ExactIndex | ApproximateIndex:
    """Return an index of (n, d) vectors, none all zero: exact up to `exact_limit` of them, approximate beyond.

    Raises:
        ShapeError: not (n, d), or an all-zero or not finite vector.
        MissingExtraError: more than `exact_limit` vectors, and usearch is not installed.
    """
    return ExactIndex(vectors) if len(vectors) <= exact_limit else ApproximateIndex(vectors)


class ExactIndex:
    """Every query against every vector."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = checked_unit_rows(vectors)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Neighbours:
        """Return the k nearest of each of (q, d) queries among the rows that (n,) bool `allowed` has, or among all."""
        return nearest(checked_unit_rows(queries), self._vectors, k, allowed)


class ApproximateIndex:
    """usearch's HNSW graph over cosine distance. Rows that are not allowed are skipped by asking for more."""

    def __init__(self, vectors: np.ndarray) -> None:
        usearch = require("usearch.index", "ground")
        self._n = len(vectors)
        shape = {"connectivity": 16, "expansion_add": 128, "expansion_search": 256}  # more is more exact, and slower
        self._index: Any = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f32", **shape)
        self._index.add(np.arange(self._n, dtype=np.uint64), checked_unit_rows(vectors))

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Neighbours:
        """Return about the same as `ExactIndex.search`, without comparing every vector."""
        queries = checked_unit_rows(queries)
        n_wanted = min(k, self._n if allowed is None else int(allowed.sum()))
        result = Neighbours.none(len(queries), k)
        for i, query in enumerate(queries if n_wanted else ()):
            rows, similarity = self._nearest(query, n_wanted, allowed)
            result.rows[i, : len(rows)], result.similarity[i, : len(rows)] = rows, similarity
        return result

    def _nearest(self, query: np.ndarray, n_wanted: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        n_asked = max(_MIN_ASKED, 2 * n_wanted)
        while True:
            matches = self._index.search(query, min(n_asked, self._n))
            rows = np.asarray(matches.keys, dtype=np.int64)
            similarity = 1 - np.asarray(matches.distances, dtype=np.float32)
            kept = np.ones(len(rows), bool) if allowed is None else allowed[rows]
            if kept.sum() >= n_wanted or n_asked >= self._n:
                return rows[kept][:n_wanted], similarity[kept][:n_wanted]
            n_asked *= 4
