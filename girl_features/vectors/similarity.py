"""Unit rows, cosines, and the nearest of many vectors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.errors import ShapeError

_SMALLEST_LENGTH = 1e-12  # rows below this length are not scaled up to length 1
_QUERIES_AT_ONCE = 512  # bounds the memory of one block of cosines


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) `vectors` to length 1, as float32. Rows of zeros stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _SMALLEST_LENGTH), np.float32)


def checked_unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) `vectors` to length 1, as float32, and accept no row without a direction.

    Raises:
        ShapeError: `vectors` is not (n, d), or a row is all zero or not finite; the message gives its number.
    """
    if vectors.ndim != 2:
        raise ShapeError(f"vectors have shape {vectors.shape}; wanted (n, d)")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~((lengths[:, 0] > 0) & np.isfinite(lengths[:, 0]))
    if bad.any():
        raise ShapeError(f"vector {int(bad.argmax())} of {len(vectors)} is all zero or not finite; leave it out")
    return np.asarray(vectors / lengths, np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (n,) float64 cosines of the rows of two (n, d) arrays; 0 where either row is all zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(axis=1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean cosine of the rows of two (n, d) arrays."""
    return float(np.einsum("ij,ij->i", unit_rows(a), unit_rows(b)).mean())


class Neighbours(NamedTuple):
    """The k nearest vectors of each of q queries, nearest first."""

    rows: np.ndarray  # (q, k) int64; -1 where fewer than k vectors are allowed
    similarity: np.ndarray  # (q, k) float32 cosines; -inf where `rows` is -1

    @classmethod
    def none(cls, n_queries: int, k: int) -> Neighbours:
        """Return a result without any neighbour, to be filled."""
        return cls(np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf, np.float32))


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Neighbours:
    """Return the k nearest of the (n, d) unit `vectors` for each of the (q, d) unit `queries`.

    Of equal cosines the first row comes first. Only vectors where the (n,) bool `allowed` is True may be returned.
    """
    result = Neighbours.none(len(queries), k)
    candidates = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    candidate_vectors = vectors if allowed is None else vectors[candidates]
    n = min(k, len(candidates))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = slice(start, start + _QUERIES_AT_ONCE)
        cosines = queries[block] @ candidate_vectors.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :n]
        result.rows[block, :n] = candidates[order]
        result.similarity[block, :n] = np.take_along_axis(cosines, order, axis=1)
    return result


def mean_of_nearest(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """Return the (q, e) float32 means of the values of the k keys nearest to each query.

    Queries are (q, d) of any length, keys (m, d) unit vectors, values (m, e). All m keys are taken if k is larger.
    """
    k = min(k, len(keys))
    means = np.empty((len(queries), values.shape[1]), np.float32)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = slice(start, start + _QUERIES_AT_ONCE)
        cosines = unit_rows(queries[block]) @ keys.T  # (block, m)
        rows = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (block, k)
        means[block] = values[rows].mean(axis=1)
    return means
