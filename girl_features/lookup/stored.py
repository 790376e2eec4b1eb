"""Rows of Feast's online store as arrays, read within a deadline.

Our packed stores bound their own reads and are asked in the caller's thread. Any other store is asked in a thread that
the caller does not wait for longer than it may: stock Redis waits a minute for a server that hangs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from girl_features.errors import DeadlineError, StoreError
from girl_features.lookup.bounded import OneThread
from girl_features.lookup.breaker import CircuitBreaker
from girl_features.schema import CV_HASH, CV_VECTOR, GENERATED_JD_VECTOR, JD_VECTOR
from girl_features.store.online.packed import STRING
from girl_features.store.online.packed_rows import microseconds
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.response import Column
from girl_features.store.repo import contract_service

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

N_IDS_A_READ = 1000  # of stores that are not ours; SQLite takes some 32,000 parameters a query
LEAST_SECONDS = 0.0005  # with less than that a read is not begun
FAIR_SECONDS = 0.01  # a store that had less than that and is late has not failed
MAX_STUCK = 4  # reads that never returned, before no others are tried
_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A vector of one view, and the text read beside it."""

    view: FeatureView
    vector: str
    text: str | None
    dimension: int


class Found(NamedTuple):
    """What one view holds for n ids."""

    vectors: np.ndarray  # (n, d) float32, zeros where there is none
    present: np.ndarray  # (n,) bool
    expired: np.ndarray  # (n,) bool: there, but past the view's time to live; never `present`
    known_at: np.ndarray  # (n,) int64 microseconds since 1970; 0 where nothing was found
    texts: list[str | None]  # None too where none was asked for

    @classmethod
    def nothing(cls, n: int, dimension: int) -> Found:
        """What a store that did not answer holds."""
        no = np.zeros(n, bool)
        return cls(np.zeros((n, dimension), np.float32), no, no.copy(), np.zeros(n, np.int64), [None] * n)

    def at(self, places: np.ndarray, n: int) -> Found:
        """n rows of which row places[i] is our row i, and the others hold nothing."""
        spread = Found.nothing(n, self.vectors.shape[1])
        for whole, own in zip(spread[:4], self[:4], strict=True):
            whole[places] = own
        for place, text in zip(places.tolist(), self.texts, strict=True):
            spread.texts[place] = text
        return spread


class ContractViews(NamedTuple):
    """The views of one contract."""

    generated: Wanted
    cv: Wanted
    jd: Wanted
    trained_until: int  # microseconds since 1970: no generated JD was known before


def contract_views(store: FeatureStore, contract: str) -> ContractViews:
    """What to read for the contract with fingerprint `contract`.

    Raises:
        UnknownContractError: the registry has no views of it.
    """
    wanted: dict[str, Wanted] = {}
    trained_until = 0
    for projection in contract_service(store, contract).feature_view_projections:
        view = store.get_feature_view(projection.name)
        lengths = {field.name: field.vector_length for field in view.features}
        vector = next(name for name in (CV_VECTOR, JD_VECTOR, GENERATED_JD_VECTOR) if name in lengths)
        text = CV_HASH if vector == GENERATED_JD_VECTOR and CV_HASH in lengths else None  # older repos have none
        wanted[vector] = Wanted(view, vector, text, lengths[vector])
        if vector == GENERATED_JD_VECTOR:
            trained_until = microseconds(datetime.fromisoformat(view.tags["trained_until"]))
    return ContractViews(wanted[GENERATED_JD_VECTOR], wanted[CV_VECTOR], wanted[JD_VECTOR], trained_until)


class Answer(NamedTuple):
    """What the store said of each view asked, or why it did not."""

    found: list[Found]
    problem: str | None


class OnlineReader:
    """Reads views of a Feast repo; an answer that does not come in time is an answer of nothing."""

    def __init__(self, store: FeatureStore, breaker: CircuitBreaker | None = None) -> None:
        self._store = store
        online: Any = store._get_provider().online_store
        self._packed = online if isinstance(online, PackedOnlineStore) else None
        self._thread = OneThread("girl-online-read", MAX_STUCK)
        self.breaker = breaker or CircuitBreaker()

    def read(self, wanted: Sequence[Wanted], ids: Sequence[str], until: float) -> Answer:
        """Rows of `ids` (strings, which may repeat) in each view, by the `time.monotonic()` given."""
        places = _storable(ids)
        if not (ids if places is None else len(places)):
            return _unread(wanted, ids, None)
        patience = until - time.monotonic()
        if patience < LEAST_SECONDS:
            return _unread(wanted, ids, "there was no time left to ask the online store")
        if not self.breaker.allows():
            return _unread(wanted, ids, "the online store failed before and is not asked for a moment")
        try:
            found = self._read(wanted, ids if places is None else [ids[i] for i in places], until)
        except Exception as error:  # whatever a store raises, a request is answered
            if patience >= FAIR_SECONDS or not isinstance(error, DeadlineError):
                self.breaker.failed()
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _log.warning("online read failed, answering without: %s", problem)
            return _unread(wanted, ids, problem)
        self.breaker.succeeded()
        return Answer(found if places is None else [one.at(places, len(ids)) for one in found], None)

    def close(self) -> None:
        """End the reading thread."""
        self._thread.close()

    def _read(self, wanted: Sequence[Wanted], ids: Sequence[str], until: float) -> list[Found]:
        if self._packed is not None:
            return self._read_packed(wanted, ids, until)
        try:
            return self._thread.run(lambda: [self._read_any(one, ids) for one in wanted], until)
        except TimeoutError as error:
            raise DeadlineError(f"the online store did not answer for {len(ids)} ids in time") from error

    def _read_packed(self, wanted: Sequence[Wanted], ids: Sequence[str], until: float) -> list[Found]:
        assert self._packed is not None
        features = [(one.view, [one.vector, *([one.text] if one.text else [])]) for one in wanted]
        left = (until - time.monotonic()) * 1000
        found = []
        for one, (rows, expired) in zip(
            wanted, self._packed.read_views(self._store.config, features, ids, left), strict=True
        ):
            vectors, present = Column.of(rows, one.vector, expired).vectors()
            none: list[str | None] = [None] * rows.n
            texts = _texts(Column.of(rows, one.text, expired)) if one.text else none
            is_expired = np.zeros(rows.n, bool) if expired is None else expired
            found.append(_checked(one, Found(vectors, present, is_expired, rows.event_times, texts)))
        return found

    def _read_any(self, one: Wanted, ids: Sequence[str]) -> Found:
        """By way of Feast's protobufs, which every online store has."""
        distinct = list(dict.fromkeys(ids))
        names = [one.vector, *([one.text] if one.text else [])]
        values: dict[str, tuple[list[Any], int]] = {}
        for start in range(0, len(distinct), N_IDS_A_READ):
            part = distinct[start : start + N_IDS_A_READ]
            response = self._store.get_online_features(
                [f"{one.view.name}:{name}" for name in names], {str(one.view.join_keys[0]): part}
            ).proto
            by_name = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
            columns = [by_name[name].values for name in names]
            times = [_microseconds(time) for time in by_name[one.vector].event_timestamps]
            values.update(zip(part, zip(zip(*columns, strict=True), times, strict=True), strict=True))  # type: ignore[arg-type]
        return _checked(one, _from_protos(one, [values[name] for name in ids]))


def _from_protos(one: Wanted, rows: Sequence[tuple[Sequence[Any], int]]) -> Found:
    found = Found.nothing(len(rows), one.dimension)
    oldest = (time.time() - one.view.ttl.total_seconds()) * 1_000_000 if one.view.ttl else None
    for i, (values, known_at) in enumerate(rows):
        if values[0].WhichOneof("val") in (None, "null_val"):  # stores report misses as null, some as PRESENT
            continue
        found.known_at[i] = known_at
        if oldest is not None and known_at < oldest:  # stock stores do not look
            found.expired[i] = True
            continue
        vector = values[0].float_list_val.val
        if len(vector) != one.dimension:
            _log.warning("a vector of %d dimensions in the online view %r is left out", len(vector), one.view.name)
            continue
        found.vectors[i] = vector
        found.present[i] = True
        if one.text is not None and values[1].WhichOneof("val") == "string_val":
            found.texts[i] = values[1].string_val
    return found


def _checked(one: Wanted, found: Found) -> Found:
    """With vectors of the view's dimension; one that no ranker can use counts as absent."""
    vectors = found.vectors
    if not found.present.any():
        return found._replace(vectors=np.zeros((len(found.present), one.dimension), np.float32))
    if vectors.shape[1] != one.dimension:
        raise StoreError(
            f"the online view {one.view.name!r} holds vectors of dimension {vectors.shape[1]}, wanted "
            f"{one.dimension}; empty it and publish again with `girl materialize`"
        )
    size = np.einsum("ij,ij->i", vectors, vectors)
    bad = found.present & ~(np.isfinite(size) & (size > 0))
    if not bad.any():
        return found
    _log.warning("%d vectors of the online view %r are NaN, infinite or all zero", bad.sum(), one.view.name)
    return found._replace(vectors=np.where(bad[:, None], np.float32(0), vectors), present=found.present & ~bad)


def _texts(column: Column) -> list[str | None]:
    texts: list[str | None] = [None] * column.n
    for chunk in column.chunks:
        if chunk.kind == STRING:
            for row, text in zip(chunk.rows.tolist(), chunk.values, strict=True):
                texts[row] = text.decode()
    return texts


def _unread(wanted: Sequence[Wanted], ids: Sequence[str], problem: str | None) -> Answer:
    return Answer([Found.nothing(len(ids), one.dimension) for one in wanted], problem)


def _storable(ids: Sequence[str]) -> np.ndarray | None:
    """Places of the ids that a store can hold, which none can of lone surrogates; None for all of them."""
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        return np.array([i for i, name in enumerate(ids) if name.isascii() or _encodes(name)], np.int64)
    return None


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _microseconds(time: Any) -> int:
    return int(time.seconds * 1_000_000 + time.nanos // 1000)
