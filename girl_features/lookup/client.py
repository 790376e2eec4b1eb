"""FeatureClient: vectors of job seekers and jobs from Feast's online store, for a ranker that answers requests.

A seeker without a usable generated JD in the store gets a stand-in vector from the bundle (cold_start.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from girl_features.contract import text_hash
from girl_features.encoder import TextEncoder
from girl_features.errors import DataError, ShapeError
from girl_features.input.text_cleaning import clean_cv
from girl_features.lookup.bundle import read_bundle
from girl_features.lookup.cold_start import ColdStart
from girl_features.lookup.generation_queue import BackgroundQueue, MissedCV
from girl_features.lookup.stored import OnlineReader, ViewRows, contract_views
from girl_features.schema import Tier
from girl_features.store.repo import open_repo

DEADLINE_MS = 50.0
OPENING_MS = 5_000.0  # longest wait for the store while a client opens
STORE_SHARE = 0.7  # share of the deadline for the store; the rest is for stand-ins

T = TypeVar("T")


class SeekerVectors(NamedTuple):
    """Features of n job seekers, in the order of the request."""

    vectors: np.ndarray  # (n, d) float32 generated-JD vectors, or stand-ins; `tiers` says which
    tiers: np.ndarray  # (n,) int8 values of schema.Tier
    age: np.ndarray  # (n,) float64 seconds since the stored generated JD was known; NaN where none is used
    is_stale: np.ndarray  # (n,) bool: the store has a generated JD, but the CV has changed since
    is_expired: np.ndarray  # (n,) bool: the store has a generated JD past its time to live; it is not used
    has_generated_jd: np.ndarray  # (n,) bool: `vectors` is specific to the seeker, which is any tier but PRIOR
    cv_vectors: np.ndarray  # (n, d) float32; without a CV the mean of all CVs, or zeros if there is no bundle
    has_cv: np.ndarray  # (n,) bool: `cv_vectors` is the vector of the seeker's own CV
    contract: str  # fingerprint of the contract of `vectors`
    problem: str | None  # reason why the store was not read; None if it was


class JobVectors(NamedTuple):
    """Features of n jobs, in the order of the request."""

    vectors: np.ndarray  # (n, d) float32 JD vectors, zeros where `has_jd` is False
    has_jd: np.ndarray  # (n,) bool
    contract: str
    problem: str | None  # reason why the store was not read; None if it was


class FeatureClient:
    """Looks up vectors of one contract. Unknown ids and a failing store give an answer, never an exception.

    Threads may share a client.
    """

    def __init__(
        self,
        repo: Path,
        contract: str,
        *,
        bundle: Path | None = None,
        encoder: TextEncoder | None = None,
        queue: BackgroundQueue | None = None,
        tiers: Collection[Tier] = tuple(Tier),
        n_neighbours: int = 10,
        deadline_ms: float = DEADLINE_MS,
        strip_html: bool = False,
    ) -> None:
        """Open the Feast repo for the contract with fingerprint `contract`.

        Args:
            repo: folder of feature_store.yaml.
            contract: fingerprint of the contract that the ranker was trained on.
            bundle: folder written by `girl train student`; without one, all stand-ins are zeros.
            encoder: encodes CVs that come with a request; without one, the CV vectors in the store are used.
            queue: receives seekers without a current generated JD; the client closes it.
            tiers: tiers to use. PRIOR is always used, because every seeker gets an answer.
            n_neighbours: number of stored CVs whose generated vectors are averaged.
            deadline_ms: default deadline of a call, in milliseconds.
            strip_html: make CVs that are HTML plain, as `tables.job_seekers.strip_html` does with those of the table;
                the two must agree, or else a CV in a request is taken for a changed one.

        Raises:
            StoreError: there is no Feast repo in `repo`.
            UnknownContractError: the registry has no views of this contract.
            CheckpointError: there is no bundle in `bundle`, or a damaged one.
            ContractMismatchError: the bundle or the encoder belongs to another contract.
        """
        self.contract = contract
        self.deadline_ms = deadline_ms
        self._strip_html = strip_html
        self._tiers = frozenset(tiers)
        store = open_repo(repo)
        self._views = contract_views(store, contract)
        self.dimension = self._views.cv.dimension
        self._cold = None
        if bundle is not None:
            self._cold = ColdStart(read_bundle(bundle, contract), self._tiers, n_neighbours, encoder)
        self._queue = queue
        self._reader = OnlineReader(store)
        # The first read connects to the store and fills Feast's caches.
        self._reader.read([self._views.generated, self._views.cv, self._views.jd], [""], _until(OPENING_MS))

    @property
    def store_state(self) -> str:
        """State of the circuit breaker of the online store: `closed` (healthy), `open` or `half-open`."""
        return self._reader.breaker.state

    def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        """Look up generated-JD and CV vectors of n seekers.

        Args:
            ids: n ids, which may be unknown and may repeat.
            cvs: n current CV texts; None where the caller has none, and a blank text where the seeker has no CV.
            deadline_ms: milliseconds for the whole call; the default of the client if omitted.

        Raises:
            DataError: an id or a CV is not a string.
            ShapeError: `ids` and `cvs` differ in length.
        """
        until = _until(self.deadline_ms if deadline_ms is None else deadline_ms)
        query = _SeekerQuery.of(ids, cvs, self._strip_html)
        now = time.monotonic()
        store_until = now + (until - now) * STORE_SHARE
        (generated, cv), problem = self._reader.read([self._views.generated, self._views.cv], query.ids, store_until)
        is_stale, tiers = self._stored_tiers(query, generated, cv)
        is_stored = tiers != Tier.PRIOR
        answer = SeekerVectors(
            vectors=np.where(is_stored[:, None], generated.vectors, np.float32(0)),
            tiers=tiers,
            age=np.where(is_stored, time.time() - generated.known_at / 1e6, np.nan),
            is_stale=is_stale,
            is_expired=generated.is_expired,
            has_generated_jd=is_stored,
            cv_vectors=cv.vectors,
            has_cv=cv.has_vector & ~query.is_blank,
            contract=self.contract,
            problem=problem,
        )
        if not (is_stored.all() and answer.has_cv.all()):
            answer = self._with_stand_ins(answer, query, until)
        if self._queue is not None and problem is None:
            self._queue_missed(self._queue, query, answer.tiers)
        return answer

    def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """Look up JD vectors of n jobs. Unknown jobs get zeros, and so do all jobs if the store fails.

        Raises:
            DataError: an id is not a string.
        """
        until = _until(self.deadline_ms if deadline_ms is None else deadline_ms)
        (rows,), problem = self._reader.read([self._views.jd], _plain_ids(ids), until)
        return JobVectors(rows.vectors, rows.has_vector, self.contract, problem)

    def close(self) -> None:
        """End the client's threads, after writing what was added to the queue."""
        self._reader.close()
        if self._cold is not None:
            self._cold.close()
        if self._queue is not None:
            self._queue.close()

    def __enter__(self) -> FeatureClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stored_tiers(self, query: _SeekerQuery, generated: ViewRows, cv: ViewRows) -> tuple[np.ndarray, np.ndarray]:
        """Compare stored generated JDs with the newest CVs.

        Returns:
            (n,) bool `is_stale`, and (n,) int8 tiers: GENERATED, STALE, or PRIOR where the stored JD is not used.
        """
        has_generated = generated.has_vector
        current_from = np.maximum(cv.known_at, self._views.trained_until)
        current_from -= current_from % self._reader.time_resolution  # the store has cut its times in the same way
        is_stale = has_generated & cv.has_vector & (generated.known_at < current_from)
        for i, (query_hash, stored_hash) in enumerate(zip(query.hashes, generated.cv_hashes, strict=True)):
            if query_hash is not None and stored_hash is not None:  # the CV in the request is the newest
                is_stale[i] = has_generated[i] and query_hash != stored_hash
        tiers = np.full(len(query.ids), Tier.PRIOR, np.int8)
        if Tier.GENERATED in self._tiers:
            tiers[has_generated & ~is_stale] = Tier.GENERATED
        if Tier.STALE in self._tiers:
            tiers[has_generated & is_stale & ~query.is_blank] = Tier.STALE
        return is_stale, tiers

    def _with_stand_ins(self, answer: SeekerVectors, query: _SeekerQuery, until: float) -> SeekerVectors:
        """Fill the rows without a stored generated JD, and then the rows without a CV vector."""
        vectors, tiers = answer.vectors, answer.tiers  # new arrays of this request, so they are changed in place
        cv_vectors, has_cv = answer.cv_vectors, answer.has_cv
        is_missing = tiers == Tier.PRIOR
        if self._cold is not None and is_missing.any():
            cv_vectors, has_cv = self._with_request_cvs(query, is_missing, cv_vectors, has_cv, until)
            vectors[is_missing] = self._cold.prior
            rows = np.flatnonzero(is_missing & has_cv)
            if len(rows):
                vectors[rows], tiers[rows] = self._cold.stand_ins(cv_vectors[rows], until)
        if not has_cv.all():
            mean = np.float32(0) if self._cold is None else self._cold.cv_mean
            cv_vectors = np.where(has_cv[:, None], cv_vectors, mean)
        return answer._replace(has_generated_jd=tiers != Tier.PRIOR, cv_vectors=cv_vectors, has_cv=has_cv)

    def _with_request_cvs(
        self, query: _SeekerQuery, is_missing: np.ndarray, cv_vectors: np.ndarray, has_cv: np.ndarray, until: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace the CV vectors of the missing rows by vectors of the CVs in the request, as far as time allows."""
        assert self._cold is not None
        rows = [i for i in np.flatnonzero(is_missing).tolist() if query.cvs[i]]
        if self._cold.encoder is None or not rows:
            return cv_vectors, has_cv
        texts, hashes = [query.cvs[i] or "" for i in rows], [query.hashes[i] or "" for i in rows]
        cv_vectors, has_cv = cv_vectors.copy(), has_cv.copy()
        for i, vector in zip(rows, self._cold.encoder.vectors(texts, hashes, until), strict=True):
            if vector is not None:
                cv_vectors[i], has_cv[i] = vector, True
        return cv_vectors, has_cv

    def _queue_missed(self, queue: BackgroundQueue, query: _SeekerQuery, tiers: np.ndarray) -> None:
        rows = [i for i in np.flatnonzero(tiers != Tier.GENERATED).tolist() if query.cvs[i] != ""]
        if rows:
            queue.add([MissedCV(self.contract, query.ids[i], query.hashes[i] or "", query.cvs[i] or "") for i in rows])


class AsyncFeatureClient:
    """Calls a FeatureClient in threads. The time that a call waits for a thread counts against its deadline."""

    def __init__(self, client: FeatureClient, n_threads: int = 4) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="girl-lookup")

    async def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        """Look up vectors of seekers; see `FeatureClient.job_seekers`."""
        return await self._run(lambda remaining_ms: self._client.job_seekers(ids, cvs, remaining_ms), deadline_ms)

    async def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """Look up vectors of jobs; see `FeatureClient.jobs`."""
        return await self._run(lambda remaining_ms: self._client.jobs(ids, remaining_ms), deadline_ms)

    def close(self) -> None:
        """End the threads. The FeatureClient stays open."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[float], T], deadline_ms: float | None) -> T:
        until = time.monotonic() + (self._client.deadline_ms if deadline_ms is None else deadline_ms) / 1000

        def call_in_thread() -> T:
            return call((until - time.monotonic()) * 1000)

        return await asyncio.get_running_loop().run_in_executor(self._threads, call_in_thread)


class _SeekerQuery(NamedTuple):
    """Checked input of a call for n seekers."""

    ids: list[str]
    cvs: list[str | None]  # cleaned; empty where the seeker has no CV
    hashes: list[str | None]  # of `cvs`
    is_blank: np.ndarray  # (n,) bool: `cvs` is empty

    @classmethod
    def of(cls, ids: Sequence[str], cvs: Sequence[str | None] | None, strip_html: bool) -> _SeekerQuery:
        """Check and clean `ids` and `cvs`."""
        plain_ids = _plain_ids(ids)
        if cvs is None:
            cvs = [None] * len(plain_ids)
        elif isinstance(cvs, str) or len(cvs) != len(plain_ids):
            raise ShapeError(f"{len(plain_ids)} ids need as many CVs, found {1 if isinstance(cvs, str) else len(cvs)}")
        for text in cvs:
            if text is not None and not isinstance(text, str):
                raise DataError(f"CVs are strings or None, found a {type(text).__name__}")
        texts = [None if text is None else clean_cv(text, strip_html) for text in cvs]
        hashes = [None if text is None else text_hash(text) for text in texts]
        return cls(plain_ids, texts, hashes, np.array([text == "" for text in texts], bool))


def _until(deadline_ms: float) -> float:
    return time.monotonic() + deadline_ms / 1000


def _plain_ids(ids: Sequence[str]) -> list[str]:
    if isinstance(ids, str):
        raise DataError(f"a list of ids is wanted, found the string {ids!r}; write [{ids!r}]")
    for name in ids:
        if not isinstance(name, str):
            raise DataError(
                f"ids must be strings, found {name!r} of type {type(name).__name__}; convert them with str()"
            )
    return list(map(str, ids))  # turns numpy strings into plain ones
