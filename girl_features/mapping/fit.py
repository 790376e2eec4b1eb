"""Fit a map between the vectors of two contracts, on CVs that have a generated JD under both."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from girl_features.contract import FeatureContract
from girl_features.errors import EmptyWindowError
from girl_features.lookup.vector_map import VectorMap, fit_ridge
from girl_features.schema import CV_HASH, ENGINE, GENERATED_JD_VECTOR, JOB_SEEKER_ID, UPDATED_AT
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS, vectors_of
from girl_features.vectors.similarity import mean_cosine

MIN_SEEKERS = 50
HELD_OUT = 5  # one seeker in this many is held out to measure the map


class SharedCVs(NamedTuple):
    """n CVs with a generated JD under both contracts."""

    seeker_ids: np.ndarray  # (n,) str
    source_vectors: np.ndarray  # (n, d_source) float32
    target_vectors: np.ndarray  # (n, d_target) float32

    def take(self, is_taken: np.ndarray) -> SharedCVs:
        """Return the CVs where the (n,) bool `is_taken` is True."""
        return SharedCVs(*(column[is_taken] for column in self))


class FittedMap(NamedTuple):
    """A map, and its accuracy on held-out seekers."""

    map: VectorMap
    kind: str  # "ridge" or "orthogonal"
    n_seekers: int
    cosine: float  # mean, between mapped and target vectors
    cosine_unmapped: float | None  # mean, between source and target vectors; None if their dimensions differ


def read_shared_cvs(store: PartsStore, source: FeatureContract, target: FeatureContract) -> SharedCVs:
    """Read the CVs with a generated JD under both contracts. Rows that were written by a map are left out.

    Raises:
        EmptyWindowError: fewer than MIN_SEEKERS seekers have such CVs.
    """
    source_rows, target_rows = (store.scan(GENERATED_JDS, contract.fingerprint) for contract in (source, target))
    table = None
    if source_rows and target_rows:
        with connected() as connection:
            table = connection.execute(
                f"""SELECT s.{JOB_SEEKER_ID} AS id, s.{GENERATED_JD_VECTOR} AS source_vector,
                    t.{GENERATED_JD_VECTOR} AS target_vector
                FROM {source_rows} AS s JOIN {target_rows} AS t USING ({JOB_SEEKER_ID}, {CV_HASH})
                WHERE NOT starts_with(s.{ENGINE}, 'map:') AND NOT starts_with(t.{ENGINE}, 'map:')
                QUALIFY row_number() OVER (PARTITION BY id, {CV_HASH}
                    ORDER BY s.{UPDATED_AT}, t.{UPDATED_AT}) = 1
                ORDER BY id, s.{UPDATED_AT}"""
            ).to_arrow_table()
    n_seekers = 0 if table is None else len(table["id"].unique())
    if table is None or n_seekers < MIN_SEEKERS:
        raise EmptyWindowError(
            f"{n_seekers} seekers have vectors of both {source.fingerprint!r} and {target.fingerprint!r}, but a map "
            f"needs {MIN_SEEKERS} to learn from; materialize some CVs under both"
        )
    return SharedCVs(
        np.array(table["id"].to_pylist(), np.str_),
        vectors_of(table["source_vector"], source.encoder.dimension),
        vectors_of(table["target_vector"], target.encoder.dimension),
    )


def fit_map(shared: SharedCVs) -> FittedMap:
    """Fit a ridge regression and a rotation, and return the one with the higher cosine on held-out seekers."""
    is_held_out = _is_held_out(shared.seeker_ids)
    train, test = shared.take(~is_held_out), shared.take(is_held_out)
    test_pair = (test.source_vectors, test.target_vectors)
    ridge = fit_ridge(train.source_vectors, train.target_vectors, test_pair)
    kind, best, cosine = "ridge", ridge.map, ridge.cosine
    cosine_unmapped = None
    if shared.source_vectors.shape[1] == shared.target_vectors.shape[1]:
        cosine_unmapped = mean_cosine(*test_pair)
        rotation = fit_rotation(train.source_vectors, train.target_vectors)
        rotation_cosine = mean_cosine(rotation(test.source_vectors), test.target_vectors)
        if rotation_cosine > cosine:
            kind, best, cosine = "orthogonal", rotation, rotation_cosine
    return FittedMap(best, kind, len(set(shared.seeker_ids.tolist())), cosine, cosine_unmapped)


def fit_rotation(inputs: np.ndarray, targets: np.ndarray) -> VectorMap:
    """Fit the rotation or reflection of the centred (n, d) `inputs` that is nearest to `targets` (Procrustes)."""
    centre, mean = inputs.mean(axis=0, dtype=np.float64), targets.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd((inputs - centre).T @ (targets - mean))
    skip = left @ right
    return VectorMap.linear(skip, mean - centre @ skip, float(np.linalg.norm(targets, axis=1).mean()))


def _is_held_out(seeker_ids: np.ndarray) -> np.ndarray:
    """(n,) bool: one seeker in HELD_OUT, chosen by a hash of the id."""
    return np.array([hashlib.sha256(name.encode()).digest()[0] % HELD_OUT == 0 for name in seeker_ids.tolist()], bool)
