"""Is what the online store answers what the parts say? Row by row, or a sample; one verdict."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from girl_features.store.repo import open_repo

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

BATCH_ROWS = 2_000
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_N_NAMED = 5


@dataclass
class ViewVerdict:
    """What was found in one Feast view. Counts are entities."""

    view: str
    n_checked: int = 0
    n_missing: int = 0  # offline, but not online
    n_stale: int = 0  # online with another event time than the newest offline
    n_different: int = 0  # same event time, other values
    n_extra: int = 0  # online, but not offline; only looked for when every row is checked
    examples: list[str] = field(default_factory=list)  # ids of the first faults

    @property
    def n_faults(self) -> int:
        """All four together."""
        return self.n_missing + self.n_stale + self.n_different + self.n_extra


@dataclass
class VerifyReport:
    """What was found in a Feast repo."""

    views: list[ViewVerdict]
    sampled: bool

    @property
    def agrees(self) -> bool:
        """Whether offline and online hold the same."""
        return not any(view.n_faults for view in self.views)

    @property
    def verdict(self) -> str:
        """One line for people."""
        checked = sum(view.n_checked for view in self.views)
        scope = f"{checked:,} {'sampled ' if self.sampled else ''}rows of {len(self.views)} views"
        if self.agrees:
            return f"OK: offline = online in {scope}"
        parts = []
        for kind in ("missing", "stale", "different", "extra"):
            if n := sum(getattr(view, f"n_{kind}") for view in self.views):
                parts.append(f"{n:,} {kind}")
        named = next(view for view in self.views if view.n_faults)
        first = f" (first: {named.examples[0]} in {named.view})" if named.examples else ""
        return f"NOT OK: of {scope}, {', '.join(parts)}{first}; `girl materialize` publishes again"

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        views = [{**asdict(view), "n_faults": view.n_faults} for view in self.views]
        return {"agrees": self.agrees, "verdict": self.verdict, "sampled": self.sampled, "views": views}


def verify(repo: Path, *, sample: int | None = None, seed: int = 0) -> VerifyReport:
    """Compare the newest offline row of each entity with the online store of the Feast repo, view by view.

    Args:
        sample: entities to compare in each view, drawn with `seed`; every one if left out.

    Raises:
        StoreError: no Feast repo, or a store that cannot be read.
    """
    store = open_repo(repo)
    views = [view for view in store.list_feature_views() if view.online and view.batch_source is not None]
    return VerifyReport([_verify_view(store, view, sample, seed) for view in views], sample is not None)


def _verify_view(store: FeatureStore, view: FeatureView, sample: int | None, seed: int) -> ViewVerdict:
    from feast.utils import _convert_arrow_to_proto

    from girl_features.store.online_base import PackedOnlineStore

    verdict = ViewVerdict(view.name)
    online: Any = store._get_provider().online_store
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    is_packed = isinstance(online, PackedOnlineStore)
    exact = timedelta(microseconds=1) if is_packed else timedelta(seconds=1)  # Feast's SQLite store keeps seconds
    offline_keys: set[bytes] = set()
    for batch in _newest_rows(store, view, sample, seed):
        rows = _convert_arrow_to_proto(batch, view, types)
        keys = [key for key, _, _, _ in rows]
        verdict.n_checked += len(keys)
        if is_packed:
            offline_keys.update(online.key_bytes(store.config, keys))
            found = online.read_rows(store.config, view, keys)  # expired rows too
        else:
            found = online.online_read(store.config, view, keys)
        for (key, values, event_time, _), (online_time, online_values) in zip(rows, found, strict=True):
            online_row = None if online_time is None else (online_time, online_values or {})
            _compare(verdict, key, (_aware(event_time), values), online_row, exact)
    if is_packed and sample is None:
        verdict.n_extra = len(set(online.keys(store.config, view)) - offline_keys)
    return verdict


def _compare(
    verdict: ViewVerdict,
    key: Any,
    offline: tuple[datetime, dict[str, Any]],
    online: tuple[datetime, dict[str, Any]] | None,
    exact: timedelta,
) -> None:
    wanted = _present(offline[1])
    present = _present(online[1]) if online is not None else {}
    if online is None or (wanted and not present):
        verdict.n_missing += 1
    elif abs(online[0] - offline[0]) >= exact:
        verdict.n_stale += 1
    elif present != wanted:
        verdict.n_different += 1
    else:
        return
    if len(verdict.examples) < _N_NAMED:
        names = [getattr(value, value.WhichOneof("val") or "string_val") for value in key.entity_values]
        verdict.examples.append(", ".join(map(repr, names)))


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value.WhichOneof("val") is not None}


def _newest_rows(store: FeatureStore, view: FeatureView, sample: int | None, seed: int) -> Iterator[pa.RecordBatch]:
    """The newest offline row of each entity, or of `sample` of them, under the view's own names."""
    source = view.batch_source
    assert source is not None, "only views with a source are verified"
    column_of = {new: old for old, new in source.field_mapping.items()}
    created = source.created_timestamp_column or None
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        store.config,
        source,
        [column_of.get(name, name) for name in view.join_keys],
        [column_of.get(feature.name, feature.name) for feature in view.features],
        column_of.get(source.timestamp_field, source.timestamp_field),
        column_of.get(created, created) if created else None,
        _FIRST,
        _LAST,
    )
    kept: list[pa.RecordBatch] = []
    rng, n_seen = random.Random(seed), 0
    for batch in _batches(job):
        batch = batch.rename_columns([source.field_mapping.get(name, name) for name in batch.schema.names])
        if sample is None:
            yield batch
            continue
        for i in range(batch.num_rows):  # every row has the same chance to be among the kept
            n_seen += 1
            place = len(kept) if len(kept) < sample else rng.randrange(n_seen)
            if place < sample:
                kept[place : place + 1] = [batch.slice(i, 1)]
    for start in range(0, len(kept), BATCH_ROWS):
        yield pa.Table.from_batches(kept[start : start + BATCH_ROWS]).combine_chunks().to_batches()[0]


def _batches(job: Any) -> Iterator[pa.RecordBatch]:
    if not hasattr(job, "batches"):
        yield from job.to_arrow().to_batches(max_chunksize=BATCH_ROWS)
        return
    with job.batches(BATCH_ROWS) as batches:
        yield from batches


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
