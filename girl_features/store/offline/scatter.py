"""A column of vectors that is filled in any order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_MAX_LIST_VALUES = 1 << 30  # an Arrow list array counts its values in 31 bits


class VectorColumn:
    """A column of n vectors of one dimension d, filled in any order."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._is_set = np.zeros(n, bool)
        self._vectors: np.ndarray | None = None  # (n, d) float32, once d is known
        self.is_regular = True  # False once a vector of another dimension was put

    def put(self, rows: np.ndarray, column: pa.ListArray | None, places: np.ndarray) -> None:
        """Set `rows` to the vectors at `places` of `column`. Clears `is_regular` if they differ in dimension."""
        if not self.is_regular:
            return
        vectors = None if column is None else _as_matrix(column)
        if vectors is None and column is not None:  # the wanted vectors alone may still have one dimension
            vectors, places = _as_matrix(column.take(pa.array(places))), np.arange(len(places))
        if vectors is None or (self._vectors is not None and self._vectors.shape[1] != vectors.shape[1]):
            self.is_regular, self._vectors = False, None
            return
        if self._vectors is None:
            memory = pa.allocate_buffer(self._n * vectors.shape[1] * 4)  # from Arrow's pool, which reuses pages
            self._vectors = np.frombuffer(memory, np.float32).reshape(self._n, vectors.shape[1])
        self._vectors[rows] = vectors[places]
        self._is_set[rows] = True

    def to_arrow(self) -> pa.ChunkedArray:
        """Return all n vectors, null where none was put."""
        list_type = pa.list_(pa.float32())
        if self._vectors is None:
            return pa.chunked_array([pa.nulls(self._n, list_type)])
        self._vectors[~self._is_set] = 0
        step = max(1, _MAX_LIST_VALUES // self._vectors.shape[1])
        slices = [self._slice(start, start + step) for start in range(0, self._n, step)]
        return pa.chunked_array(slices, list_type)

    def _slice(self, start: int, stop: int) -> pa.ListArray:
        assert self._vectors is not None
        vectors, is_set = self._vectors[start:stop], self._is_set[start:stop]
        offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
        mask = None if is_set.all() else pa.array(~is_set)
        return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), mask=mask)


def _as_matrix(column: pa.ListArray) -> np.ndarray | None:
    """Return (m, d) float32 without a copy; None unless every entry is a list of the same number d > 0 of floats."""
    column_type = column.type
    is_list = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
    if not is_list or not pa.types.is_float32(column_type.value_type):
        return None
    values, lengths = column.flatten(), column.value_lengths()
    if column.null_count or values.null_count or not len(column):
        return None
    dimension = lengths[0].as_py()
    if not dimension or not (lengths.to_numpy() == dimension).all():
        return None
    return np.asarray(values.to_numpy().reshape(len(column), dimension))
