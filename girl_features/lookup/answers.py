"""What a FeatureClient answers: arrays in the order asked, a row for every id."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SeekerVectors(NamedTuple):
    """Features of n job seekers."""

    vectors: np.ndarray  # (n, d) float32 generated-JD vectors, or what stands in for them: see `tiers`
    tiers: np.ndarray  # (n,) int8, values of schema.Tier
    age: np.ndarray  # (n,) float64 seconds since the stored generated JD was first known; NaN where none is used
    is_stale: np.ndarray  # (n,) bool: the store has a generated JD, but of a CV that has changed since
    is_expired: np.ndarray  # (n,) bool: the store has one past the view's time to live; it is not used
    has_generated_jd: np.ndarray  # (n,) bool: `vectors` says something of this seeker: any tier but PRIOR
    cv_vectors: np.ndarray  # (n, d) float32; where there is none, the mean of all CVs (zeros without a bundle)
    has_cv: np.ndarray  # (n,) bool: `cv_vectors` is the seeker's own
    contract: str  # fingerprint of what made `vectors`
    problem: str | None  # why the store was not read; None if it was


class JobVectors(NamedTuple):
    """Features of n jobs."""

    vectors: np.ndarray  # (n, d) float32 JD vectors, zeros where there is none
    has_jd: np.ndarray  # (n,) bool
    contract: str
    problem: str | None  # why the store was not read; None if it was
