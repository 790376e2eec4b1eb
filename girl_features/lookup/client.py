"""FeatureClient: vectors of seekers and jobs from Feast's online store, with stand-ins for what is not there."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from girl_features.contract import text_hash
from girl_features.encoder import TextEncoder
from girl_features.errors import DataError, ShapeError
from girl_features.input.text_cleaning import clean_cv
from girl_features.lookup.answers import JobVectors, SeekerVectors
from girl_features.lookup.bundle import read_bundle
from girl_features.lookup.cold_start import ColdStart
from girl_features.lookup.generation_queue import Offer, OfferQueue
from girl_features.lookup.stored import Found, OnlineReader, contract_views
from girl_features.schema import Tier
from girl_features.store.repo import open_repo

DEADLINE_MS = 50.0
OPENING_MS = 5_000.0  # how long a client that opens waits for a store that hangs
STORE_SHARE = 0.7  # of the deadline: what is left answers for a store that hangs


class Request(NamedTuple):
    """n seekers that were asked for."""

    ids: list[str]
    cvs: list[str | None]  # cleaned; empty: known to be blank
    hashes: list[str | None]  # of the CVs

    @classmethod
    def of(cls, ids: Sequence[str], cvs: Sequence[str | None] | None) -> Request:
        """Checked and cleaned; raises DataError or ShapeError."""
        plain = _plain_ids(ids)
        texts = _clean_cvs(plain, cvs)
        return cls(plain, texts, [None if text is None else text_hash(text) for text in texts])

    @property
    def is_blank(self) -> np.ndarray:
        """(n,) bool: the seeker has emptied the CV."""
        return np.array([text == "" for text in self.cvs], bool)


class FeatureClient:
    """Looks vectors of one contract up. Unknown ids and a store that is down are answers, never exceptions.

    Safe to share between threads.
    """

    def __init__(
        self,
        repo: Path,
        contract: str,
        *,
        bundle: Path | None = None,
        encoder: TextEncoder | None = None,
        queue: OfferQueue | None = None,
        tiers: Collection[Tier] = tuple(Tier),
        n_neighbours: int = 10,
        deadline_ms: float = DEADLINE_MS,
    ) -> None:
        """Open the Feast repo for the contract with fingerprint `contract`.

        Args:
            repo: folder of feature_store.yaml.
            contract: what made the vectors; a ranker's own.
            bundle: folder written by `girl train student`; without one there are no stand-ins but zeros.
            encoder: makes vectors of CVs that come with a request; without one the store's CV vectors are used.
            queue: told which seekers have no current generated JD; the client closes it.
            tiers: those to use. PRIOR always is, as there must be an answer.
            n_neighbours: stored CVs whose generated vectors are averaged.
            deadline_ms: milliseconds a call may take in all, unless it says otherwise.

        Raises:
            StoreError: no Feast repo there.
            UnknownContractError: the registry has no views of this contract.
            CheckpointError: no bundle there, or a damaged one.
            ContractMismatchError: the bundle or the encoder is of another contract.
        """
        self.contract = contract
        self.deadline_ms = deadline_ms
        self._tiers = frozenset(tiers)
        store = open_repo(repo)
        views = contract_views(store, contract)
        self._seeker_views, self._job_views = [views.generated, views.cv], [views.jd]
        self._trained_until = views.trained_until
        self.dimension = views.cv.dimension
        self._cold = None
        if bundle is not None:
            self._cold = ColdStart(read_bundle(bundle, contract), self._tiers, n_neighbours, encoder)
        self._queue = queue
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
        request = Request.of(ids, cvs)
        now = time.monotonic()
        (generated, cv), problem = self._reader.read(self._seeker_views, request.ids, now + (until - now) * STORE_SHARE)
        is_stale, tiers = self._stored_tiers(request, generated, cv)
        in_store = tiers != Tier.PRIOR
        cv_vectors, has_cv = cv.vectors, cv.present & ~request.is_blank
        vectors = np.where(in_store[:, None], generated.vectors, np.float32(0))
        if self._cold is not None and not in_store.all():
            cv_vectors, has_cv = self._with_request_cvs(request, ~in_store, cv_vectors, has_cv, until)
            vectors[~in_store] = self._cold.prior
            rows = np.flatnonzero(~in_store & has_cv)
            if len(rows):
                vectors[rows], tiers[rows] = self._cold.stand_ins(cv_vectors[rows], until)
        if not has_cv.all():
            mean = np.float32(0) if self._cold is None else self._cold.cv_mean
            cv_vectors = np.where(has_cv[:, None], cv_vectors, mean)
        if self._queue is not None and problem is None:
            self._offer(self._queue, request, tiers)
        age = np.where(in_store, time.time() - generated.known_at / 1e6, np.nan)
        has_generated = tiers != Tier.PRIOR
        return SeekerVectors(
            vectors, tiers, age, is_stale, generated.expired, has_generated, cv_vectors, has_cv, self.contract, problem
        )

    def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """JD vectors of n jobs; a job that is unknown, or a store that is down, gives zeros.

        Raises:
            DataError: an id is not a string.
        """
        until = _until(self.deadline_ms if deadline_ms is None else deadline_ms)
        (found,), problem = self._reader.read(self._job_views, _plain_ids(ids), until)
        return JobVectors(found.vectors, found.present, self.contract, problem)

    def close(self) -> None:
        """End the client's threads; what was offered to the queue is written."""
        self._reader.close()
        if self._cold is not None:
            self._cold.close()
        if self._queue is not None:
            self._queue.close()

    def __enter__(self) -> FeatureClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored_tiers(self, request: Request, generated: Found, cv: Found) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool: of a CV that has changed since; and (n,) int8 tiers, PRIOR where the store's is not used."""
        has_generated = generated.present
        is_stale = has_generated & cv.present & (generated.known_at < np.maximum(cv.known_at, self._trained_until))
        for i, (own, stored) in enumerate(zip(request.hashes, generated.texts, strict=True)):
            if own is not None and stored is not None:  # the request knows best
                is_stale[i] = has_generated[i] and own != stored
        tiers = np.full(len(request.ids), Tier.PRIOR, np.int8)
        if Tier.GENERATED in self._tiers:
            tiers[has_generated & ~is_stale] = Tier.GENERATED
        if Tier.STALE in self._tiers:
            tiers[has_generated & is_stale & ~request.is_blank] = Tier.STALE
        return is_stale, tiers

    def _with_request_cvs(
        self, request: Request, wanted: np.ndarray, cv_vectors: np.ndarray, has_cv: np.ndarray, until: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """CV vectors with those of the `wanted` rows' texts in place of the store's, as far as time allows."""
        assert self._cold is not None
        rows = [i for i in np.flatnonzero(wanted).tolist() if request.cvs[i]]
        if self._cold.encoder is None or not rows:
            return cv_vectors, has_cv
        texts, hashes = [request.cvs[i] or "" for i in rows], [request.hashes[i] or "" for i in rows]
        cv_vectors, has_cv = cv_vectors.copy(), has_cv.copy()
        for i, vector in zip(rows, self._cold.encoder.vectors(texts, hashes, until), strict=True):
            if vector is not None:
                cv_vectors[i], has_cv[i] = vector, True
        return cv_vectors, has_cv

    def _offer(self, queue: OfferQueue, request: Request, tiers: np.ndarray) -> None:
        rows = [i for i in np.flatnonzero(tiers != Tier.GENERATED).tolist() if request.cvs[i] != ""]
        if rows:
            queue.offer(
                [Offer(self.contract, request.ids[i], request.hashes[i] or "", request.cvs[i] or "") for i in rows]
            )


def _until(deadline_ms: float) -> float:
    return time.monotonic() + deadline_ms / 1000


def _plain_ids(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise DataError(f"a list of ids is wanted, found the string {ids!r}; write [{ids!r}]")
    for name in ids:
        if not isinstance(name, str):
            raise DataError(f"ids are strings, found {name!r} of type {type(name).__name__}")
    return list(map(str, ids))  # numpy's strings become Python's


def _clean_cvs(ids: Sequence[str], cvs: Sequence[str | None] | None) -> list[str | None]:
    if cvs is None:
        return [None] * len(ids)
    if isinstance(cvs, str) or len(cvs) != len(ids):
        raise ShapeError(f"{len(ids)} ids need as many CVs, found {1 if isinstance(cvs, str) else len(cvs)}")
    for text in cvs:
        if text is not None and not isinstance(text, str):
            raise DataError(f"CVs are strings or None, found a {type(text).__name__}")
    return [None if text is None else clean_cv(text) for text in cvs]
