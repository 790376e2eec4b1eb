"""Principal components: a few columns in place of some hundred dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PCA(NamedTuple):
    """A linear map from d dimensions to k."""

    mean: np.ndarray  # (d,) float32
    components: np.ndarray  # (k, d) float32, orthonormal rows, most variance first

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """(n, k) float32 coordinates of (n, d) vectors."""
        return np.asarray((vectors.astype(np.float32) - self.mean) @ self.components.T)


def fit_pca(vectors: np.ndarray, n_components: int) -> PCA:
    """The first min(n_components, d) principal components of (n, d) `vectors`, n >= 1.

    From the SVD of the (d, d) covariance, so memory does not grow with n. The largest entry of each component is
    positive: the sign, which variance leaves open, is then the same on every machine.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    second_moment = vectors.T.astype(np.float64) @ vectors / len(vectors)
    _, _, components = np.linalg.svd(second_moment - np.outer(mean, mean), hermitian=True)
    components = components[:n_components]
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return PCA(mean.astype(np.float32), (components * signs[:, None]).astype(np.float32))
