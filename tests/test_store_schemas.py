"""Any schema: our offline store, online stores and Feast's rows in between, against values that were never stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    String,
    UnixTimestamp,
)
from feast.utils import _convert_arrow_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.store.parts.part_files import commit_part
from tests.feast_repos import DAY, OUR_OFFLINE, OUR_SQLITE, feature_view, open_store, write_parts

pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")

text = st.text(st.characters(codec="utf-8"), max_size=5)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
KINDS: list[tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = [
    (Int64, pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (Int32, pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (Float64, pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    (Float32, pa.float32(), float32),
    (Bool, pa.bool_(), st.booleans()),
    (String, pa.string(), text),
    (Bytes, pa.binary(), st.binary(min_size=1, max_size=5)),  # Feast makes null of an empty one
    (UnixTimestamp, pa.timestamp("us", "UTC"), st.integers(0, 2**31).map(lambda s: datetime.fromtimestamp(s, UTC))),
    (Array(Float32), pa.list_(pa.float32()), st.lists(float32, min_size=1, max_size=3)),
    (Array(Int64), pa.list_(pa.int64()), st.lists(st.integers(-9, 9), min_size=1, max_size=3)),
    (Array(String), pa.list_(pa.string()), st.lists(text, min_size=1, max_size=3)),
]
ODD_IDS = ["a", "", "'; DROP TABLE x --", "é\0\u202e", '"']


class Drawn(NamedTuple):
    """A view and its rows, in parts."""

    view: FeatureView
    keys: list[str]
    created: str | None
    parts: list[pa.Table]
    ttl: timedelta

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for part in self.parts for row in part.to_pylist()]

    @property
    def features(self) -> list[str]:
        return [feature.name for feature in self.view.features]


def source_of(folder: Path, created: str | None) -> FileSource:
    return FileSource(
        name="s",
        path=str(folder),
        file_format=ParquetFormat(),
        timestamp_field="when",
        created_timestamp_column=created or "",
    )


@st.composite
def views(draw: st.DrawFn) -> Drawn:
    """One or two keys, one to four features of any type, with a created time or none, one to three parts."""
    key_kinds = draw(st.lists(st.sampled_from([(String, pa.string()), (Int64, pa.int64())]), min_size=1, max_size=2))
    features = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    created = draw(st.sampled_from([None, "made at"]))
    ttl = timedelta(days=draw(st.sampled_from([0, 2])))
    keys = [f"key {i}" for i in range(len(key_kinds))]
    names = [f"feature {i}" for i in range(len(features))]
    fields = [pa.field(name, kind) for name, (_, kind) in zip(keys, key_kinds, strict=True)]
    fields += [pa.field("when", pa.timestamp("us", "UTC"))]
    fields += [pa.field(created, pa.timestamp("us", "UTC"))] if created else []
    fields += [pa.field(name, kind) for name, (_, kind, _) in zip(names, features, strict=True)]
    ids = [st.sampled_from(ODD_IDS) if kind is String else st.sampled_from([0, -1, 2**60]) for kind, _ in key_kinds]
    moments = [st.integers(0, 4)] * (2 if created else 1)
    known = draw(st.lists(st.tuples(*ids, *moments), min_size=1, max_size=8, unique=True))
    parts: list[list[dict[str, Any]]] = [[], [], []]
    for own in known:
        row: dict[str, Any] = dict(zip(keys, own, strict=False)) | {"when": DAY + timedelta(days=own[len(keys)])}
        if created:
            row[created] = DAY + timedelta(days=own[-1])
        row |= {name: draw(st.none() | value) for name, (_, _, value) in zip(names, features, strict=True)}
        parts[draw(st.integers(0, 2))].append(row)
    schema = [Field(name=name, dtype=kind) for name, (kind, _) in zip(keys, key_kinds, strict=True)]
    schema += [Field(name=name, dtype=kind) for name, (kind, _, _) in zip(names, features, strict=True)]
    types = {String: ValueType.STRING, Int64: ValueType.INT64}
    entities = [
        Entity(name=f"e {name}", join_keys=[name], value_type=types[kind])
        for name, (kind, _) in zip(keys, key_kinds, strict=True)
    ]
    source = source_of(Path("/"), created)
    view = FeatureView(name="drawn", entities=entities, schema=schema, source=source, ttl=ttl)
    tables = [pa.Table.from_pylist(own, schema=pa.schema(fields)) for own in parts if own]
    return Drawn(view, keys, created, tables, ttl)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    folder = tmp_path_factory.mktemp("schemas")
    write_parts(folder / "parts", [])
    yield open_store(folder / "repo", [feature_view(folder / "parts")], offline=OUR_OFFLINE, online=OUR_SQLITE)


def newest(drawn: Drawn, key: tuple[Any, ...], at: datetime | None, cutoff: bool) -> dict[str, Any] | None:
    """By looking at every row."""
    seen = [
        row
        for row in drawn.rows
        if tuple(row[name] for name in drawn.keys) == key
        and (at is None or row["when"] <= at)
        and (at is None or not drawn.ttl or row["when"] + drawn.ttl >= at)
        and (at is None or not cutoff or drawn.created is None or row[drawn.created] <= at)
    ]
    return max(seen, key=lambda row: (row["when"], row[drawn.created] if drawn.created else 0), default=None)


@settings(max_examples=40, deadline=None)
@given(drawn=views(), data=st.data())
def test_history_over_any_schema(store: FeatureStore, drawn: Drawn, data: st.DataObject) -> None:
    folder = Path(store.config.repo_path) / "history"
    for old in folder.glob("*.parquet"):
        old.unlink()
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(drawn.parts):
        if data.draw(st.booleans()):
            commit_part(folder, part)
        else:
            pq.write_table(part, folder / f"foreign {i}.parquet", row_group_size=2)
    drawn.view.batch_source = source_of(folder, drawn.created)
    known = [tuple(row[name] for name in drawn.keys) for row in drawn.rows]
    asked = data.draw(st.lists(st.tuples(st.sampled_from(known), st.integers(-1, 6)), min_size=1, max_size=6))
    cutoff = data.draw(st.booleans())
    columns: dict[str, Any] = {name: [key[i] for key, _ in asked] for i, name in enumerate(drawn.keys)}
    columns["at"] = pd.to_datetime([DAY + timedelta(days=day) for _, day in asked], utc=True)
    job = store._get_provider().offline_store.get_historical_features(
        store.config,
        [drawn.view],
        [f"drawn:{name}" for name in drawn.features],
        pd.DataFrame(columns),
        store.registry,
        store.project,
        filter_by_created_timestamp=cutoff,
    )
    expected = [newest(drawn, key, DAY + timedelta(days=day), cutoff) for key, day in asked]
    found = job.to_arrow().select(drawn.features).to_pylist()
    assert found == [{name: row[name] if row else None for name in drawn.features} for row in expected]


@settings(max_examples=40, deadline=None)
@given(drawn=views(), reverse=st.booleans())
def test_online_over_any_schema(store: FeatureStore, drawn: Drawn, reverse: bool) -> None:
    """By Arrow or by Feast's own rows, in any order, the newest of each key comes back as it was."""
    online: Any = store._get_provider().online_store
    drawn = drawn._replace(ttl=timedelta(0))
    drawn.view.ttl = timedelta(0)
    online.update(store.config, [drawn.view], [], [], [], True)
    types = {field.name: field.dtype.to_value_type() for field in drawn.view.entity_columns}
    for i, part in enumerate(drawn.parts[::-1] if reverse else drawn.parts):
        [batch] = part.to_batches()
        if i % 2:
            one_by_one = (batch.slice(place, 1) for place in range(batch.num_rows))  # Feast rounds ints beside nulls
            rows = [row for own in one_by_one for row in _convert_arrow_to_proto(own, drawn.view, types)]
            online.online_write_batch(store.config, drawn.view, rows, None)
        else:
            online.write_arrow(store.config, drawn.view, batch, "when", drawn.created)
    keys = list(dict.fromkeys(tuple(row[name] for name in drawn.keys) for row in drawn.rows))
    protos = [
        EntityKeyProto(
            join_keys=drawn.view.join_keys,
            entity_values=[
                python_values_to_proto_values([key[drawn.keys.index(name)]], types[name])[0]
                for name in drawn.view.join_keys
            ],
        )
        for key in keys
    ]
    for key, (time, values) in zip(keys, online.online_read(store.config, drawn.view, protos), strict=True):
        row = newest(drawn, key, None, False)
        assert row is not None
        assert time == row["when"]
        assert {name: _plain(value) for name, value in values.items()} == {n: row[n] for n in drawn.features}


def _plain(value: Any) -> Any:
    found = feast_value_type_to_python_type(value)
    return found.astimezone(UTC) if isinstance(found, datetime) else found
