"""FeatureClient: vectors of seekers and jobs from Feast's online store, with stand-ins for what is not there."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

import numpy as np

from girl_features.contract import text_hash
from girl_features.cv_text import clean_cv
from girl_features.errors import DataError, ShapeError
from girl_features.lookup.answers import JobVectors, SeekerVectors
from girl_features.lookup.stored import Answer, OnlineReader, Wanted
from girl_features.schema import CV_HASH, CV_VECTOR, GENERATED_JD_VECTOR, JD_VECTOR, Tier
from girl_features.store.packed_rows import microseconds
from girl_features.store.repo import contract_service, open_repo

DEADLINE_MS = 50.0
OPENING_MS = 5_000.0  # how long a client that opens waits for a store that hangs
STORE_SHARE = 0.7  # of the deadline: what is left answers for a store that hangs


class FeatureClient:
    """Looks vectors of one contract up. Unknown ids and a store that is down are answers, never exceptions.

    Safe to share between threads.
    """

    def __init__(
        self,
        repo: Path,
        contract: str,
        *,
        tiers: Collection[Tier] = tuple(Tier),
        deadline_ms: float = DEADLINE_MS,
    ) -> None:
        """Open the Feast repo for the contract with fingerprint `contract`.

        Args:
            repo: folder of feature_store.yaml.
            contract: what made the vectors; a ranker's own.
            tiers: those to use. PRIOR always is, as there must be an answer.
            deadline_ms: milliseconds a call may take in all, unless it says otherwise.

        Raises:
            StoreError: no Feast repo there.
            UnknownContractError: the registry has no views of this contract.
        """
        self.contract = contract
        self._tiers = frozenset(tiers)
        self.deadline_ms = deadline_ms
        store = open_repo(repo)
        wanted: dict[str, Wanted] = {}
        for projection in contract_service(store, contract).feature_view_projections:
            view = store.get_feature_view(projection.name)
            names = {field.name: field.vector_length for field in view.features}
            vector = next(name for name in (CV_VECTOR, JD_VECTOR, GENERATED_JD_VECTOR) if name in names)
            text = CV_HASH if vector == GENERATED_JD_VECTOR and CV_HASH in names else None
            wanted[vector] = Wanted(view, vector, text, names[vector])
            if vector == GENERATED_JD_VECTOR:
                self._trained_until = microseconds(datetime.fromisoformat(view.tags["trained_until"]))
        self._seeker_views = [wanted[GENERATED_JD_VECTOR], wanted[CV_VECTOR]]
        self._job_views = [wanted[JD_VECTOR]]
        self.dimension = wanted[CV_VECTOR].dimension
        self._reader = OnlineReader(store)
        self._reader.read([*self._seeker_views, *self._job_views], [""], _until(OPENING_MS))  # connects; Feast warms up

    @property
    def store_state(self) -> str:
        """`closed` (healthy), `open` or `half-open`: whether the online store is asked at all."""
        return self._reader.breaker.state

    def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        """Generated-JD and CV vectors of n seekers, whatever the store does; ids may repeat.

        Args:
            ids: n strings, known or not.
            cvs: n present CV texts, None where the caller has none; a blank one means that there is no CV.
            deadline_ms: milliseconds for all of it; the client's own if left out.

        Raises:
            DataError: an id or a CV is not a string.
            ShapeError: not as many CVs as ids.
        """
        until = _until(self.deadline_ms if deadline_ms is None else deadline_ms)
        _check_ids(ids)
        texts = _clean_cvs(ids, cvs)
        (generated, cv), problem = self._stored(ids, until)
        n = len(ids)
        has_generated = generated.present
        hashes = [None if text is None else text_hash(text) for text in texts]
        older = has_generated & cv.present & (generated.known_at < np.maximum(cv.known_at, self._trained_until))
        for i, (own, stored) in enumerate(zip(hashes, generated.texts, strict=True)):
            if own is not None and stored is not None:
                older[i] = has_generated[i] and own != stored
        blank = np.array([text == "" for text in texts], bool)
        tiers = np.full(n, Tier.PRIOR, np.int8)
        tiers[has_generated & ~older & (Tier.GENERATED in self._tiers)] = Tier.GENERATED
        tiers[has_generated & older & ~blank & (Tier.STALE in self._tiers)] = Tier.STALE
        from_store = tiers <= Tier.STALE
        vectors = np.where(from_store[:, None], generated.vectors, np.float32(0))
        age = np.where(from_store, time.time() - generated.known_at / 1e6, np.nan)
        return SeekerVectors(
            vectors=vectors,
            tiers=tiers,
            age=age,
            is_stale=older,
            is_expired=generated.expired,
            has_generated_jd=tiers != Tier.PRIOR,
            cv_vectors=cv.vectors,
            has_cv=cv.present,
            contract=self.contract,
            problem=problem,
        )

    def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """JD vectors of n jobs; a job that is unknown, or a store that is down, gives zeros.

        Raises:
            DataError: an id is not a string.
        """
        until = _until(self.deadline_ms if deadline_ms is None else deadline_ms)
        _check_ids(ids)
        (found,), problem = self._reader.read(self._job_views, ids, until)
        return JobVectors(found.vectors, found.present, self.contract, problem)

    def close(self) -> None:
        """End the client's threads."""
        self._reader.close()

    def __enter__(self) -> FeatureClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, ids: Sequence[str], until: float) -> Answer:
        now = time.monotonic()
        return self._reader.read(self._seeker_views, ids, now + (until - now) * STORE_SHARE)


def _until(deadline_ms: float) -> float:
    return time.monotonic() + deadline_ms / 1000


def _check_ids(ids: Sequence[str]) -> None:
    if isinstance(ids, str):
        raise DataError(f"a list of ids is wanted, found the string {ids!r}; write [{ids!r}]")
    for name in ids:
        if not isinstance(name, str):
            raise DataError(f"ids are strings, found {name!r} of type {type(name).__name__}")


def _clean_cvs(ids: Sequence[str], cvs: Sequence[str | None] | None) -> list[str | None]:
    if cvs is None:
        return [None] * len(ids)
    if isinstance(cvs, str) or len(cvs) != len(ids):
        raise ShapeError(f"{len(ids)} ids need as many CVs, found {1 if isinstance(cvs, str) else len(cvs)}")
    for text in cvs:
        if text is not None and not isinstance(text, str):
            raise DataError(f"CVs are strings or None, found a {type(text).__name__}")
    return [None if text is None else clean_cv(text) for text in cvs]
