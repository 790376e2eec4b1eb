"""Principal component analysis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PCA(NamedTuple):
    """A linear map from d dimensions to k."""

    mean: np.ndarray  # (d,) float32
    components: np.ndarray  # (k, d) float32, orthonormal rows, most variance first

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return the (n, k) float32 coordinates of (n, d) vectors."""
        return np.asarray((vectors.astype(np.float32) - self.mean) @ self.components.T)


def fit_pca(vectors: np.ndarray, n_components: int) -> PCA:
    """Return the first min(n_components, d) principal components of (n, d) `vectors`, n >= 1.

    The components come from the SVD of the (d, d) covariance, so memory does not grow with n. Variance leaves the
    sign of a component open. Here the largest entry of each is positive, so that every machine gives the same signs.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    second_moment = vectors.T.astype(np.float64) @ vectors / len(vectors)
    _, _, components = np.linalg.svd(second_moment - np.outer(mean, mean), hermitian=True)
    components = components[:n_components]
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    return PCA(mean.astype(np.float32), (components * signs[:, None]).astype(np.float32))
