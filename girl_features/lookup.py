"""FeatureClient: vectors of seekers and jobs from Feast's online store, for a ranker that answers requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from girl_features.errors import DataError, InvalidVectorError
from girl_features.schema import (
    CV_KNOWN_AT,
    CV_VECTOR,
    GENERATED_JD_KNOWN_AT,
    GENERATED_JD_VECTOR,
    JD_KNOWN_AT,
    JD_VECTOR,
)
from girl_features.store.names import service_name
from girl_features.store.repo import contract_service, open_repo

N_IDS_A_READ = 1000  # SQLite takes some 32,000 parameters a query


class SeekerVectors(NamedTuple):
    """Online features of n job seekers, in the order asked."""

    vectors: np.ndarray  # (n, d) float32 generated-JD vectors, zeros where there is none
    has_generated_jd: np.ndarray  # (n,) bool
    event_timestamps: np.ndarray  # (n,) datetime64[s] UTC: when the generated JD was first known; NaT for none
    cv_vectors: np.ndarray  # (n, d) float32, zeros where there is none
    has_cv: np.ndarray  # (n,) bool


class JobVectors(NamedTuple):
    """Online features of n jobs, in the order asked."""

    vectors: np.ndarray  # (n, d) float32, zeros where there is none
    has_jd: np.ndarray  # (n,) bool
    event_timestamps: np.ndarray  # (n,) datetime64[s] UTC; NaT for none


class FeatureClient:
    """Looks vectors of one contract up online. An unknown id is an answer, never an exception.

    Not safe to share between threads, as Feast's SQLite store is not.
    """

    def __init__(self, repo: Path, contract: str) -> None:
        """Open the Feast repo for the contract with fingerprint `contract`.

        Raises:
            StoreError: no Feast repo there.
            UnknownContractError: the registry has no views of this contract.
        """
        self._store = open_repo(repo)
        self.contract = contract
        self._views: dict[str, _View] = {}  # by feature
        for projection in contract_service(self._store, contract).feature_view_projections:
            view = self._store.get_feature_view(projection.name)
            for field in view.features:
                self._views[field.name] = _View(view.name, str(view.join_keys[0]), field.vector_length)
                if field.name == GENERATED_JD_VECTOR:
                    trained_until = datetime.fromisoformat(view.tags["trained_until"])
                    self._trained_until = np.datetime64(trained_until.astimezone(UTC).replace(tzinfo=None), "s")
        self.dimension = self._views[CV_VECTOR].vector_length

    def job_seekers(self, ids: Sequence[str]) -> SeekerVectors:
        """Generated-JD and CV vectors of `ids`, which may repeat; misses by `has_generated_jd` and `has_cv`.

        Raises:
            DataError: an id is not a string.
            InvalidVectorError: the online store holds a vector of another dimension.
        """
        found = self._read(ids, [GENERATED_JD_VECTOR, GENERATED_JD_KNOWN_AT, CV_VECTOR, CV_KNOWN_AT])
        vectors, has_generated_jd = self._vectors(found[GENERATED_JD_VECTOR], ids)
        cv_vectors, has_cv = self._vectors(found[CV_VECTOR], ids)
        known_at = _times(found[GENERATED_JD_KNOWN_AT])
        # a CV that is blank, or whose generation failed, has none: the JD of the CV before it is not its own
        stale = has_cv & (known_at != np.maximum(_times(found[CV_KNOWN_AT]), self._trained_until))
        vectors[stale], known_at[stale] = 0, np.datetime64("NaT")
        return SeekerVectors(vectors, has_generated_jd & ~stale, known_at, cv_vectors, has_cv)

    def jobs(self, ids: Sequence[str]) -> JobVectors:
        """JD vectors of `ids`, which may repeat; misses by `has_jd`. Errors of `job_seekers`."""
        found = self._read(ids, [JD_VECTOR, JD_KNOWN_AT])
        vectors, has_jd = self._vectors(found[JD_VECTOR], ids)
        return JobVectors(vectors, has_jd, _times(found[JD_KNOWN_AT]))

    def _read(self, ids: Sequence[str], features: list[str]) -> dict[str, list[Any]]:
        """One protobuf Value, or None for a miss, for each id and feature."""
        key = self._views[features[0]].join_key
        distinct = [name for name in dict.fromkeys(_checked_ids(ids)) if _storable(name)]
        known: dict[str, dict[str, Any]] = {feature: {} for feature in features}
        references = [f"{self._views[feature].name}:{feature}" for feature in features]
        for start in range(0, len(distinct), N_IDS_A_READ):
            part = distinct[start : start + N_IDS_A_READ]
            response = self._store.get_online_features(references, {key: part}).proto
            for name, result in zip(response.metadata.feature_names.val, response.results, strict=True):
                if name in known:
                    known[name].update(zip(part, result.values, strict=True))
        return {feature: [_present(known[feature].get(name)) for name in ids] for feature in features}

    def _vectors(self, values: list[Any], ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        vectors = np.zeros((len(values), self.dimension), np.float32)
        for row, value in enumerate(values):
            if value is None:
                continue
            floats = value.float_list_val.val
            if len(floats) != self.dimension:
                raise InvalidVectorError(
                    f"the online vector of {ids[row]!r} has dimension {len(floats)}, but {self.dimension} is "
                    f"wanted under {service_name(self.contract)}; publish again with `girl materialize`"
                )
            vectors[row] = floats
        return vectors, np.array([value is not None for value in values], bool)


class _View(NamedTuple):
    name: str
    join_key: str
    vector_length: int  # 0 for a feature that is no vector


def _checked_ids(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str):
        raise DataError(f"a list of ids is wanted, found the string {ids!r}; write [{ids!r}]")
    for name in ids:
        if not isinstance(name, str):
            raise DataError(f"ids are strings, found {name!r} of type {type(name).__name__}")
    return ids


def _storable(name: str) -> bool:
    """False for text that no store can hold (lone surrogates), which is therefore unknown to it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _present(value: Any) -> Any:
    """None for a missing value: stores report misses as null, some under the status PRESENT."""
    return None if value is None or value.WhichOneof("val") in (None, "null_val") else value


def _times(values: list[Any]) -> np.ndarray:
    seconds = ["NaT" if value is None else value.unix_timestamp_val for value in values]
    return np.array([np.datetime64(second, "s") for second in seconds], "datetime64[s]")
