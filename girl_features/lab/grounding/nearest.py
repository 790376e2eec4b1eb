"""The nearest of many vectors by cosine: exact up to a hundred thousand, an HNSW graph (usearch) beyond."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from girl_features.errors import ShapeError, require

EXACT_LIMIT = 100_000  # vectors: below, one block of products is fast enough and never wrong
_BLOCK = 512  # queries at a time
_CONNECTIVITY, _EXPANSION_ADD, _EXPANSION_SEARCH = 16, 128, 256
_MIN_ASKED = 64


class Found(NamedTuple):
    """The k nearest of each of q queries, nearest first."""

    rows: np.ndarray  # (q, k) int64; -1 where fewer than k are allowed
    similarity: np.ndarray  # (q, k) float32 cosine; -inf there


class Index(Protocol):
    """Vectors that can be searched."""

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """The k nearest of each of (q, d) queries among the rows that (n,) bool `allowed` has, or among all."""
        ...


def make_index(vectors: np.ndarray, exact_limit: int = EXACT_LIMIT) -> Index:
    """An index of (n, d) vectors, none all zero: exact up to `exact_limit` of them, approximate beyond.

    Raises:
        ShapeError: not (n, d), or an all-zero or not finite vector.
        MissingExtraError: more than `exact_limit` vectors, and usearch is not installed.
    """
    return ExactIndex(vectors) if len(vectors) <= exact_limit else ApproximateIndex(vectors)


class ExactIndex:
    """Every query against every vector."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = unit_rows(vectors)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """See `Index`. Of equal similarities the first row goes first."""
        queries = unit_rows(queries)
        chosen = np.arange(len(self._vectors)) if allowed is None else np.flatnonzero(allowed)
        rows, similarity = _nothing(len(queries), k)
        kept = self._vectors[chosen] if allowed is not None else self._vectors
        n = min(k, len(chosen))
        for start in range(0, len(queries) if n else 0, _BLOCK):
            products = queries[start : start + _BLOCK] @ kept.T
            order = np.argsort(-products, axis=1, kind="stable")[:, :n]
            rows[start : start + _BLOCK, :n] = chosen[order]
            similarity[start : start + _BLOCK, :n] = np.take_along_axis(products, order, axis=1)
        return Found(rows, similarity)


class ApproximateIndex:
    """usearch's HNSW graph over cosine distance. Rows that are not allowed are skipped by asking for more."""

    def __init__(self, vectors: np.ndarray) -> None:
        usearch = require("usearch.index", "ground")
        self._n = len(vectors)
        self._index: Any = usearch.Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="f32",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )
        self._index.add(np.arange(self._n, dtype=np.uint64), unit_rows(vectors))

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """See `Index`."""
        queries = unit_rows(queries)
        n_wanted = min(k, self._n if allowed is None else int(allowed.sum()))
        rows, similarity = _nothing(len(queries), k)
        for i, query in enumerate(queries if n_wanted else ()):
            own_rows, own_similarity = self._one(query, n_wanted, allowed)
            rows[i, : len(own_rows)], similarity[i, : len(own_rows)] = own_rows, own_similarity
        return Found(rows, similarity)

    def _one(self, query: np.ndarray, n_wanted: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        asked = max(_MIN_ASKED, 2 * n_wanted)
        while True:
            found = self._index.search(query, min(asked, self._n))
            rows = np.asarray(found.keys, dtype=np.int64)
            similarity = 1 - np.asarray(found.distances, dtype=np.float32)
            kept = np.ones(len(rows), bool) if allowed is None else allowed[rows]
            if kept.sum() >= n_wanted or asked >= self._n:
                return rows[kept][:n_wanted], similarity[kept][:n_wanted]
            asked *= 4


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32 of unit length.

    Raises:
        ShapeError: not (n, d), or an all-zero or not finite vector; names its row.
    """
    if vectors.ndim != 2:
        raise ShapeError(f"vectors have shape {vectors.shape}; wanted (n, d)")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~((length[:, 0] > 0) & np.isfinite(length[:, 0]))
    if bad.any():
        raise ShapeError(f"vector {int(bad.argmax())} of {len(vectors)} is all zero or not finite; leave it out")
    return np.asarray(vectors / length, np.float32)


def _nothing(n_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf, np.float32)
