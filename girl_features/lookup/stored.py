"""OnlineReader: rows of Feast's online store as arrays, read before a deadline.

Packed stores (girl_features.store.online) limit the time of their own reads, so they are read in the caller's thread.
Any other store is read in a background thread, because it may take much longer than the deadline: Feast's Redis store
waits a minute for a server that hangs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from girl_features.errors import DeadlineError, StoreError
from girl_features.lookup.waiting import CircuitBreaker, DeadlineThread
from girl_features.schema import CV_HASH, CV_VECTOR, GENERATED_JD_VECTOR, JD_VECTOR
from girl_features.store.entity_ids import possible_ids
from girl_features.store.online.packed import STRING
from girl_features.store.online.packed_rows import microseconds
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.response import FeatureColumn
from girl_features.store.repo import contract_service

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

IDS_PER_READ = 1000  # for stores other than ours; SQLite accepts about 32,000 parameters in a query
MIN_READ_SECONDS = 0.0005  # no read is started with less time than this
FAIR_SECONDS = 0.01  # a store that had less time than this and is late does not count as failed
MAX_STUCK = 4  # reads that never returned, before further reads wait for them
_log = logging.getLogger(__name__)


class VectorView(NamedTuple):
    """One Feast view, and the columns that are read from it."""

    view: FeatureView
    vector: str  # column name
    cv_hash: str | None  # column name; None where the view has no such column
    dimension: int

    @property
    def columns(self) -> list[str]:
        """Names of the columns to read."""
        return [self.vector] if self.cv_hash is None else [self.vector, self.cv_hash]


class ContractViews(NamedTuple):
    """The views of one contract."""

    generated: VectorView
    cv: VectorView
    jd: VectorView
    trained_until: int  # microseconds since 1970; no generated JD of this contract is older


class ViewRows(NamedTuple):
    """Rows of one view for n ids."""

    vectors: np.ndarray  # (n, d) float32, zeros where `has_vector` is False
    has_vector: np.ndarray  # (n,) bool
    is_expired: np.ndarray  # (n,) bool: the store has a row, but it is past the view's time to live
    known_at: np.ndarray  # (n,) int64 microseconds since 1970; 0 where the store has no row
    cv_hashes: list[str | None]  # None where the store has no row, or the view no such column

    @classmethod
    def empty(cls, n: int, dimension: int) -> ViewRows:
        """Rows for n ids that are not in the store."""
        vectors = np.zeros((n, dimension), np.float32)
        return cls(vectors, np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, np.int64), [None] * n)

    def spread(self, places: np.ndarray, n: int) -> ViewRows:
        """Return n rows: row i of these becomes row `places[i]`, and all others are empty."""
        result = ViewRows.empty(n, self.vectors.shape[1])
        for target, source in zip(result[:4], self[:4], strict=True):
            target[places] = source
        for place, cv_hash in zip(places.tolist(), self.cv_hashes, strict=True):
            result.cv_hashes[place] = cv_hash
        return result


StoreAnswer = tuple[list[ViewRows], str | None]  # rows of each view, and why the store was not read; None if it was


def contract_views(store: FeatureStore, contract: str) -> ContractViews:
    """Return the views of the contract with fingerprint `contract`.

    Raises:
        UnknownContractError: the registry has no views of this contract.
    """
    by_vector: dict[str, VectorView] = {}
    trained_until = 0
    for projection in contract_service(store, contract).feature_view_projections:
        view = store.get_feature_view(projection.name)
        lengths = {field.name: field.vector_length for field in view.features}
        vector = next(name for name in (CV_VECTOR, JD_VECTOR, GENERATED_JD_VECTOR) if name in lengths)
        cv_hash = None
        if vector == GENERATED_JD_VECTOR:
            trained_until = microseconds(datetime.fromisoformat(view.tags["trained_until"]))
            cv_hash = CV_HASH if CV_HASH in lengths else None  # repos of older versions do not have it
        by_vector[vector] = VectorView(view, vector, cv_hash, lengths[vector])
    return ContractViews(by_vector[GENERATED_JD_VECTOR], by_vector[CV_VECTOR], by_vector[JD_VECTOR], trained_until)


class OnlineReader:
    """Reads views of a Feast repo. A store that fails or is late gives empty rows, not an error."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        online: Any = store._get_provider().online_store
        self._packed = online if isinstance(online, PackedOnlineStore) else None
        self._thread = DeadlineThread("girl-online-read", MAX_STUCK)
        self.breaker = CircuitBreaker()

    @property
    def time_resolution(self) -> int:
        """Microseconds by which two event times in the store differ at least; Feast's own stores keep whole seconds."""
        return 1 if self._packed is not None else 1_000_000

    def read(self, views: Sequence[VectorView], ids: Sequence[str], until: float) -> StoreAnswer:
        """Read the rows of `ids`, which may repeat, from each view, before the `time.monotonic()` value `until`."""
        places = _storable(ids)
        stored_ids = ids if places is None else [ids[i] for i in places]
        if not stored_ids:
            return _unread(views, ids, None)
        seconds = until - time.monotonic()
        if seconds < MIN_READ_SECONDS:
            return _unread(views, ids, "there was no time left to ask the online store")
        if not self.breaker.allows():
            return _unread(views, ids, "the online store failed before and is not asked for a moment")
        try:
            rows = self._read(views, stored_ids, until)
        except Exception as error:  # a store may raise anything, and every request gets an answer
            if seconds >= FAIR_SECONDS or not isinstance(error, DeadlineError):
                self.breaker.failed()
            problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            _log.warning("the online store was not read: %s", problem)
            return _unread(views, ids, problem)
        self.breaker.succeeded()
        if places is not None:
            rows = [view_rows.spread(places, len(ids)) for view_rows in rows]
        return rows, None

    def close(self) -> None:
        """End the reading thread."""
        self._thread.close()

    def _read(self, views: Sequence[VectorView], ids: Sequence[str], until: float) -> list[ViewRows]:
        if self._packed is None:
            try:
                return self._thread.run(lambda: [self._read_with_feast(view, ids) for view in views], until)
            except TimeoutError as error:
                raise DeadlineError(f"the online store did not answer for {len(ids)} ids in time") from error
        columns = [(view.view, view.columns) for view in views]
        packed = self._packed.read_views(self._store.config, columns, ids, (until - time.monotonic()) * 1000)
        result = []
        for view, rows in zip(views, packed, strict=True):
            vectors, has_vector = FeatureColumn.of(rows, view.vector).vectors()
            cv_hashes: list[str | None] = [None] * rows.n
            if view.cv_hash is not None:
                cv_hashes = _strings(FeatureColumn.of(rows, view.cv_hash))
            is_expired = np.zeros(rows.n, bool) if rows.expired is None else rows.expired
            result.append(_checked(view, ViewRows(vectors, has_vector, is_expired, rows.event_times, cv_hashes)))
        return result

    def _read_with_feast(self, view: VectorView, ids: Sequence[str]) -> ViewRows:
        """Read rows through Feast's own interface, which every online store has."""
        [key] = view.view.entity_columns
        texts = list(dict.fromkeys(ids))
        exact = dict(zip(texts, possible_ids(texts, key.dtype.to_value_type()), strict=True))
        distinct = [name for name, value in exact.items() if value is not None]  # the others name no row
        by_id: dict[str, tuple[Any, Any, Any]] = {}
        for start in range(0, len(distinct), IDS_PER_READ):
            batch = distinct[start : start + IDS_PER_READ]
            response = self._store.get_online_features(
                [f"{view.view.name}:{name}" for name in view.columns], {key.name: [exact[name] for name in batch]}
            ).proto
            features = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
            vectors, times = features[view.vector].values, features[view.vector].event_timestamps
            hashes = vectors if view.cv_hash is None else features[view.cv_hash].values
            by_id |= dict(zip(batch, zip(vectors, hashes, times, strict=True), strict=True))
        return _checked(view, _from_protos(view, [by_id.get(name) for name in ids]))


def _storable(ids: Sequence[str]) -> np.ndarray | None:
    """Indices of the ids that are valid Unicode, which a store can hold; None if all are."""
    if _is_encodable("".join(ids)):
        return None
    return np.array([i for i, name in enumerate(ids) if _is_encodable(name)], np.int64)


def _is_encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unread(views: Sequence[VectorView], ids: Sequence[str], problem: str | None) -> StoreAnswer:
    return [ViewRows.empty(len(ids), view.dimension) for view in views], problem


def _strings(column: FeatureColumn) -> list[str | None]:
    strings: list[str | None] = [None] * column.rows.n
    for group in column.groups:
        if group.kind == STRING:
            for row, value in zip(group.rows.tolist(), group.values, strict=True):
                strings[row] = value.decode()
    return strings


def _checked(view: VectorView, rows: ViewRows) -> ViewRows:
    """Rows whose vectors have the view's dimension. NaN, infinite and all-zero vectors count as absent.

    Raises:
        StoreError: the store holds vectors of another dimension.
    """
    vectors = rows.vectors
    if not rows.has_vector.any():
        return rows._replace(vectors=np.zeros((len(rows.has_vector), view.dimension), np.float32))
    if vectors.shape[1] != view.dimension:
        raise StoreError(
            f"the online view {view.view.name!r} holds vectors of dimension {vectors.shape[1]}, wanted "
            f"{view.dimension}; empty it and publish again with `girl materialize`"
        )
    size = np.einsum("ij,ij->i", vectors, vectors)
    unusable = rows.has_vector & ~(np.isfinite(size) & (size > 0))
    if not unusable.any():
        return rows
    _log.warning("%d vectors of the online view %r are NaN, infinite or all zero", unusable.sum(), view.view.name)
    usable_vectors = np.where(unusable[:, None], np.float32(0), vectors)
    return rows._replace(vectors=usable_vectors, has_vector=rows.has_vector & ~unusable)


def _from_protos(view: VectorView, proto_rows: Sequence[tuple[Any, Any, Any] | None]) -> ViewRows:
    """Read rows of Feast's protobufs: the vector, the CV hash (the vector again where there is none), and the time.

    None stands for an id that no row can have.
    """
    rows = ViewRows.empty(len(proto_rows), view.dimension)
    oldest = (time.time() - view.view.ttl.total_seconds()) * 1_000_000 if view.view.ttl else -math.inf
    for i, proto_row in enumerate(proto_rows):
        if proto_row is None:
            continue
        vector, cv_hash, known_at = proto_row
        if vector.WhichOneof("val") in (None, "null_val"):  # some stores report a missing row as PRESENT
            continue
        rows.known_at[i] = known_at.seconds * 1_000_000 + known_at.nanos // 1000
        if rows.known_at[i] < oldest:  # Feast's own stores do not check the time to live
            rows.is_expired[i] = True
            continue
        values = vector.float_list_val.val
        if len(values) != view.dimension:
            _log.warning("a vector of %d dimensions in the online view %r is ignored", len(values), view.view.name)
            continue
        rows.vectors[i], rows.has_vector[i] = values, True
        if view.cv_hash is not None and cv_hash.WhichOneof("val") == "string_val":
            rows.cv_hashes[i] = cv_hash.string_val
    return rows
