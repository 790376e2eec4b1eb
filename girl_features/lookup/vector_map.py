"""VectorMap: a small network from vectors to vectors, in numpy: the student, and the map between two contracts.

    y = x S + silu(x A + a) B + b,  then each row scaled to one length

S alone is a linear map; A and B add a hidden layer. A ranking host needs neither torch nor a compiler for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from girl_features.errors import CheckpointError, ShapeError
from girl_features.vectors.regression import ridge_path
from girl_features.vectors.similarity import mean_cosine, unit_rows

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of the weights, in squared lengths of all inputs together
_SHAPES = {  # d_in, h and d_out stand for what they are in one map
    "skip": ("d_in", "d_out"),
    "bias": ("d_out",),
    "hidden": ("d_in", "h"),
    "hidden_bias": ("h",),
    "out": ("h", "d_out"),
    "length": (),
}


class VectorMap(NamedTuple):
    """Weights, all float32."""

    skip: np.ndarray  # (d_in, d_out): S
    bias: np.ndarray  # (d_out,): b
    hidden: np.ndarray  # (d_in, h): A; h may be 0
    hidden_bias: np.ndarray  # (h,): a
    out: np.ndarray  # (h, d_out): B
    length: np.ndarray  # (): of every result, the mean length of the targets

    @classmethod
    def linear(cls, skip: np.ndarray, bias: np.ndarray, length: float) -> VectorMap:
        """A map without a hidden layer."""
        d_in, d_out = skip.shape
        arrays = (skip, bias, np.zeros((d_in, 0)), np.zeros(0), np.zeros((0, d_out)), np.asarray(length))
        return cls(*(np.asarray(array, np.float32) for array in arrays))

    @classmethod
    def checked(cls, arrays: dict[str, np.ndarray], place: str) -> VectorMap:
        """The map with these weights, as read from `place`.

        Raises:
            CheckpointError: arrays missing, of shapes that do not fit each other, or not finite.
        """
        sizes: dict[str, int] = {}
        for name, dimensions in _SHAPES.items():
            array = arrays.get(name)
            if array is None or array.ndim != len(dimensions) or array.dtype != np.float32:
                raise CheckpointError(f"{place} has no float32 array {name!r} of {len(dimensions)} dimensions")
            if not np.isfinite(array).all():
                raise CheckpointError(f"{place}: {name!r} holds NaN or infinite weights; train it again")
            for dimension, size in zip(dimensions, array.shape, strict=True):
                if sizes.setdefault(dimension, size) != size:
                    raise CheckpointError(f"{place}: {name!r} has {dimension} = {size}, wanted {sizes[dimension]}")
        return cls(**{name: arrays[name] for name in _SHAPES})

    @property
    def n_parameters(self) -> int:
        """Number of trained weights."""
        return int(sum(array.size for array in self[:-1]))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map (n, d_in) vectors to (n, d_out) float32 vectors, all of the same length.

        Raises:
            ShapeError: vectors of another dimension.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.skip.shape[0]:
            raise ShapeError(f"vectors of shape {vectors.shape} for a map that takes {self.skip.shape[0]} dimensions")
        result: np.ndarray = vectors @ self.skip + self.bias
        if self.hidden.shape[1]:
            before = vectors @ self.hidden + self.hidden_bias
            result += (before / (1 + np.exp(-np.clip(before, -60, 60)))) @ self.out
        scaled: np.ndarray = unit_rows(result) * self.length
        return scaled

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, for a file."""
        return {name: np.array(array, order="C") for name, array in self._asdict().items()}


class Ridge(NamedTuple):
    """A linear map and how it was chosen."""

    map: VectorMap
    penalty: float
    cosine: float  # to the held-out targets, mean


def fit_ridge(inputs: np.ndarray, targets: np.ndarray, held_out: tuple[np.ndarray, np.ndarray]) -> Ridge:
    """Fit a linear map from (n, d_in) inputs to (n, d_out) targets by ridge regression.

    `held_out` are inputs and targets of other rows. The penalty with the highest mean cosine on them is taken.
    """
    length = float(np.linalg.norm(targets, axis=1).mean())
    candidates = []
    for penalty, regression in zip(_PENALTIES, ridge_path(inputs, targets, _PENALTIES), strict=True):
        candidate = VectorMap.linear(regression.weights, regression.intercept, length)
        candidates.append(Ridge(candidate, penalty, mean_cosine(candidate(held_out[0]), held_out[1])))
    return max(candidates, key=lambda ridge: ridge.cosine)
