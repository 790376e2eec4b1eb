"""Compare the online store with the parts, row by row or in a sample, and give one verdict.

No run publishes to the Feast repo during the comparison. A worker may still write parts: rows that it wrote a moment
ago and has not published yet are counted separately, and are not a fault.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import GirlError, StoreError
from girl_features.store.feast_sources import SourceColumns, file_column, view_batches
from girl_features.store.online.publishing import Ledger, online_errors
from girl_features.store.parts import PartsStore
from girl_features.store.parts.part_files import LOCK, reading
from girl_features.store.repo import open_repo, registry_path

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

BATCH_ROWS = 2_000
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_N_EXAMPLES = 5
GRACE_S = 60.0  # a running worker publishes a part within this time after it wrote it
Values = dict[str, Any]  # Feast's protobuf values by feature
NOT_ONLINE = "nothing to compare: `feast.online` is false, so nothing is published"


@dataclass
class ViewVerdict:
    """Result of comparing one Feast view. Counts are entities."""

    view: str
    n_checked: int = 0
    n_missing: int = 0  # offline, but not online
    n_stale: int = 0  # online with another event time than the newest offline
    n_different: int = 0  # same event time, other values
    n_extra: int = 0  # online, but not offline; counted only when every row is checked
    n_on_their_way: int = 0  # written a moment ago and not published yet; not a fault
    examples: list[str] = field(default_factory=list)  # ids of the first faults

    @property
    def n_faults(self) -> int:
        """Faults of all four kinds."""
        return self.n_missing + self.n_stale + self.n_different + self.n_extra


@dataclass
class VerifyReport:
    """Result of comparing a Feast repo with its online store."""

    views: list[ViewVerdict]
    sampled: bool
    is_online: bool = True  # False if there is no online store to compare with

    @property
    def agrees(self) -> bool:
        """True if offline and online have the same rows."""
        return not any(view.n_faults for view in self.views)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if not self.is_online:
            return NOT_ONLINE
        checked = sum(view.n_checked + view.n_extra for view in self.views)
        if not checked:
            return "nothing to compare yet: no rows are stored; `girl materialize` makes them"
        scope = f"{checked:,} {'sampled ' if self.sampled else ''}rows of {len(self.views)} views"
        if self.agrees:
            n = sum(view.n_on_their_way for view in self.views)
            return f"OK: offline = online in {scope}" + (f", {n:,} of them just being published" if n else "")
        parts = []
        for kind in ("missing", "stale", "different", "extra"):
            if n := sum(getattr(view, f"n_{kind}") for view in self.views):
                parts.append(f"{n:,} {kind}")
        named = next(view for view in self.views if view.n_faults)
        first = f" (first: {named.examples[0]} in {named.view})" if named.examples else ""
        return f"NOT OK: of {scope}, {', '.join(parts)}{first}; `girl materialize` publishes again"

    def to_json(self) -> dict[str, Any]:
        """Return the report for JSON."""
        views = [{**asdict(view), "n_faults": view.n_faults} for view in self.views]
        return {"agrees": self.agrees, "verdict": self.verdict, "sampled": self.sampled, "views": views}


def verify(repo: Path, store: PartsStore | None = None, *, sample: int | None = None, seed: int = 0) -> VerifyReport:
    """Compare the newest offline row of each entity with the online store of the Feast repo, view by view.

    Publishers of `store` wait during the comparison; if it is left out, none waits. `sample` is the number of entities
    to compare in each view; all of them if it is left out.

    Raises:
        StoreError: no Feast repo, or a store that cannot be read.
        StoreLockedError: another run is publishing, and does not end in time.
    """
    feast_store = open_repo(repo)
    has_rows = store is not None and bool(store.contracts())
    registry = registry_path(feast_store.config)
    if registry is not None and not registry.exists():  # Feast would write an empty one
        if not has_rows:
            return VerifyReport([], sample is not None)
        raise StoreError(f"{registry}: the registry is missing; `girl doctor --mend` restores it")
    since = time.time() - GRACE_S
    with nullcontext() if store is None or not has_rows else Ledger.of(store.root, repo, feast_store.project) as ledger:
        views = [view for view in feast_store.list_feature_views() if view.online and view.batch_source is not None]
        verdicts = [_compared(feast_store, view, sample, seed, ledger, since) for view in views]
    return VerifyReport(verdicts, sample is not None)


def _compared(
    store: FeatureStore, view: FeatureView, sample: int | None, seed: int, ledger: Ledger | None, since: float
) -> ViewVerdict:
    """Return the verdict on one Feast view; `since` is the time from which an unpublished part is not a fault."""
    from girl_features.store.online.packed_store import PackedOnlineStore, feast_rows, serialized_keys

    source: Any = view.batch_source
    online: Any = store._get_provider().online_store
    is_packed = isinstance(online, PackedOnlineStore)
    # two event times that differ by less are equal; Feast's own stores keep whole seconds
    time_resolution = timedelta(microseconds=1) if is_packed else timedelta(seconds=1)
    verdict = ViewVerdict(view.name)
    faults: list[tuple[str, Any]] = []  # kind and entity key
    offline_keys: set[bytes] = set()
    for batch in _newest_rows(store, view, sample, seed):
        rows = feast_rows(view, batch, source.timestamp_field, source.created_timestamp_column or None)
        keys = [key for key, _, _, _ in rows]
        verdict.n_checked += len(keys)
        with online_errors(store):
            if is_packed:
                offline_keys.update(serialized_keys(store.config, keys))
                online_rows = online.read_rows(store.config, view, keys)  # expired rows too
            else:
                online_rows = online.online_read(store.config, view, keys)
        for (key, values, event_time, _), (online_time, online_values) in zip(rows, online_rows, strict=True):
            if kind := _fault(event_time, values, online_time, online_values or {}, time_resolution):
                faults.append((kind, key))
    if is_packed and sample is None:
        with online_errors(store):
            verdict.n_extra = len(set(online.keys(store.config, view)) - offline_keys)
    _count(verdict, faults, _on_their_way(store, view, ledger, since) if faults and ledger is not None else set())
    return verdict


def _fault(
    offline_time: datetime, offline: Values, online_time: datetime | None, online: Values, time_resolution: timedelta
) -> str | None:
    """Return the name of the count that the row belongs to; None if offline and online agree."""
    wanted, present = _without_nulls(offline), _without_nulls(online)
    if online_time is None or (wanted and not present):
        return "n_missing"
    if abs(online_time - offline_time) >= time_resolution:
        return "n_stale"
    return "n_different" if present != wanted else None


def _count(verdict: ViewVerdict, faults: list[tuple[str, Any]], on_their_way: set[str]) -> None:
    for kind, key in faults:
        names = [getattr(value, value.WhichOneof("val") or "string_val") for value in key.entity_values]
        if str(names[0]) in on_their_way:
            verdict.n_on_their_way += 1
            continue
        setattr(verdict, kind, getattr(verdict, kind) + 1)
        if len(verdict.examples) < _N_EXAMPLES:
            verdict.examples.append(", ".join(map(repr, names)))


def _on_their_way(store: FeatureStore, view: FeatureView, ledger: Ledger, since: float) -> set[str]:
    """Return, as text, the ids in unpublished parts that were written after `since`."""
    source: Any = view.batch_source
    folder = Path(store.repo_path, getattr(source, "path", ""))
    published = ledger.published(view.name)
    ids: set[str] = set()
    if not (folder / LOCK).is_file():  # no folder of parts
        return ids
    key = file_column(source, view.join_keys[0])
    with reading(folder) as parts:
        for path in parts:
            if path.name not in published and path.stat().st_mtime >= since:
                ids.update(map(str, pq.read_table(path, columns=[key])[key].to_pylist()))
    return ids


def _without_nulls(values: Values) -> Values:
    return {name: value for name, value in values.items() if value.WhichOneof("val") is not None}


def _newest_rows(store: FeatureStore, view: FeatureView, sample: int | None, seed: int) -> Iterator[pa.RecordBatch]:
    """Read the newest offline row of each entity, or of `sample` entities, under the view's own column names.

    Raises:
        StoreError: the source of the view cannot be read.
    """
    batches = _offline_rows(store, view)
    if sample is None:
        yield from batches
        return
    rows = _sampled_rows(batches, sample, seed)
    for start in range(0, len(rows), BATCH_ROWS):
        yield pa.Table.from_batches(rows[start : start + BATCH_ROWS]).combine_chunks().to_batches()[0]


def _offline_rows(store: FeatureStore, view: FeatureView) -> Iterator[pa.RecordBatch]:
    source = view.batch_source
    assert source is not None, "only views with a source are verified"
    offline_store = store._get_provider().offline_store
    columns = SourceColumns.of(view, source)
    try:
        job = offline_store.pull_latest_from_table_or_query(store.config, source, *columns, _FIRST, _LAST)
        yield from view_batches(job, source, BATCH_ROWS)
    except (GirlError, GeneratorExit):
        raise
    except Exception as error:  # an offline store of another project may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(
            f"the source {source.name!r} of the view {view.name!r} cannot be read ({reason}). Feast's own offline "
            f"stores take a relative path from the folder in which the command runs: run it in {store.repo_path}, or "
            f"correct the path"
        ) from error


def _sampled_rows(batches: Iterable[pa.RecordBatch], sample: int, seed: int) -> list[pa.RecordBatch]:
    """Draw up to `sample` rows, each with the same chance, by reservoir sampling."""
    rows: list[pa.RecordBatch] = []
    rng, n_seen = random.Random(seed), 0
    for batch in batches:
        for i in range(batch.num_rows):
            n_seen += 1
            place = len(rows) if len(rows) < sample else rng.randrange(n_seen)
            if place < sample:
                rows[place : place + 1] = [batch.slice(i, 1)]
    return rows
