"""Our online stores and Feast's own: one suite over all four, an oracle, and the traps where Feast's own are wrong."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore, Field, RequestSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.types import Float32, Float64, Int64
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.errors import DeadlineError, InvalidVectorError, StoreError
from girl_features.store.online import packed
from girl_features.store.online.packed import pack, pack_value, single_keys
from girl_features.store.online.packed_rows import from_arrow, from_feast
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.response import PackedResponse
from girl_features.store.online_redis import RedisReader, parse_connection_string
from tests.feast_repos import (
    DAY,
    FEATURES,
    OUR_ENGINE,
    OUR_OFFLINE,
    OUR_REDIS,
    OUR_SQLITE,
    feature_view,
    needs_redis,
    open_store,
    redis_server,
    row,
    rows_table,
    write_parts,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")
REFS = [f"facts:{name}" for name in FEATURES]
KINDS = ["stock-sqlite", "our-sqlite", "stock-redis", "our-redis"]
OURS = ["our-sqlite", "our-redis"]


def marked(kinds: list[str]) -> list[Any]:
    skip = pytest.mark.skipif(needs_redis() is not None, reason=str(needs_redis()))
    return [pytest.param(k, marks=[pytest.mark.redis, skip]) if k.endswith("redis") else k for k in kinds]


ALL = pytest.mark.parametrize("kind", marked(KINDS))
OUR = pytest.mark.parametrize("kind", marked(OURS))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], FeatureStore]]:
    """Stores by kind, opened when first asked for, over one folder of parts and one Redis."""
    folder = tmp_path_factory.mktemp("online")
    write_parts(folder / "parts", [row("a", 0, 0, 1)])
    stores: dict[str, FeatureStore] = {}
    servers: list[Any] = []

    def open_kind(kind: str) -> FeatureStore:
        if kind not in stores:
            if kind.endswith("redis") and not servers:
                server = redis_server(folder)
                servers.append((server, server.__enter__()))
            online: dict[str, Any] = {"type": kind.removeprefix("stock-")}
            if kind.startswith("our"):
                online["type"] = OUR_SQLITE if kind == "our-sqlite" else OUR_REDIS
            if kind.endswith("redis"):
                online["connection_string"] = f"127.0.0.1:{servers[0][1]},db={KINDS.index(kind)}"
                if kind == "our-redis":
                    online["read_deadline_ms"] = 5000  # tests of the deadline have their own server
            views = [
                feature_view(folder / "parts"),
                feature_view(folder / "parts", timedelta(days=2), "fresh"),
            ]
            engine = OUR_ENGINE if kind.startswith("our") else None
            offline = OUR_OFFLINE if kind.startswith("our") else "duckdb"
            stores[kind] = open_store(folder / kind, views, offline=offline, online=online, engine=engine)
        return stores[kind]

    yield open_kind
    for server, _ in servers:
        server.__exit__(None, None, None)


def push(store: FeatureStore, rows: list[dict[str, Any]], view: str = "facts") -> None:
    store.write_to_online_store(view, rows_table(rows).to_pandas())


def read(store: FeatureStore, *ids: str, refs: list[str] = REFS, **options: Any) -> dict[str, list[Any]]:
    return dict(store.get_online_features(refs, [{"seeker": name} for name in ids], **options).to_dict())


def by_name(response: Any) -> dict[str, Any]:
    """Protobuf results by feature, as Feast keeps no order among those of one view."""
    return dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))


TYPES = {"seeker": ValueType.STRING}
names = iter(f"id{i}" for i in range(1_000_000))  # the tests share the stores, never an id


@ALL
def test_every_type_comes_back_in_the_order_asked(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a, b = next(names), next(names)
    store = opened(kind)
    push(store, [row(a, 0, 0, 2), row(b, 1, 1, 7)])
    found = read(store, b, "nobody", a, b)
    assert found == {
        "seeker": [b, "nobody", a, b],
        "vector": [[7.0, 1.0, -7.0, 0.5], None, [2.0, 1.0, -2.0, 0.5], [7.0, 1.0, -7.0, 0.5]],
        "count": [7, None, 2, 7],
        "title": ["title 7", None, "title 2", "title 7"],
        "words": [["w0"], None, ["w0", "w1"], ["w0"]],
        "seen_at": [DAY + timedelta(seconds=7), None, DAY + timedelta(seconds=2), DAY + timedelta(seconds=7)],
    }


@ALL
def test_full_names_frames_times_and_protobuf(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a = next(names)
    store = opened(kind)
    push(store, [row(a, 3, 3, 5)])
    rows = [{"seeker": a}, {"seeker": "nobody"}]
    response = store.get_online_features(["facts:count", "facts:vector"], rows, full_feature_names=True)
    frame = response.to_df(include_event_timestamps=True)
    assert frame["facts__count"].tolist()[0] == 5
    assert frame["facts__count__ts"].tolist()[0] == int((DAY + timedelta(days=3)).timestamp())
    results = by_name(response)
    assert set(results) == {"seeker", "facts__count", "facts__vector"}
    assert results["seeker"].values[1].string_val == "nobody"
    assert list(results["facts__vector"].values[0].float_list_val.val) == [5.0, 1.0, -5.0, 0.5]
    assert results["facts__count"].values[1].WhichOneof("val") is None
    assert results["facts__count"].event_timestamps[0].ToDatetime(tzinfo=UTC) == DAY + timedelta(days=3)
    assert response.to_arrow().num_rows == 2


@ALL
def test_on_demand_features_get_whole_columns(tmp_path: Path, opened: Callable[[str], FeatureStore], kind: str) -> None:
    store = opened(kind)
    view = store.get_feature_view("facts")

    @on_demand_feature_view(
        sources=[view[["count"]], RequestSource(name="ask", schema=[Field(name="plus", dtype=Int64)])],
        schema=[Field(name="total", dtype=Float64)],
        mode="python",
    )
    def summed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"total": [float((c or 0) + p) for c, p in zip(inputs["count"], inputs["plus"], strict=True)]}

    store.apply([summed])
    a = next(names)
    push(store, [row(a, 0, 0, 4)])
    asked = [{"seeker": "nobody", "plus": 1}, {"seeker": a, "plus": 2}, {"seeker": a, "plus": 3}]
    found = store.get_online_features(["summed:total", "facts:count"], asked).to_dict()
    assert found["total"] == [1.0, 6.0, 7.0]
    assert found["count"] == [None, 4, 4]


@ALL
def test_ids_that_are_hostile_text(opened: Callable[[str], FeatureStore], kind: str) -> None:
    store = opened(kind)
    odd = ["", "a\0b", "'; DROP TABLE x --", "é" * 3000, "\u202eidder", "*", "girl1:"]
    push(store, [row(name, 0, 0, i + 1) for i, name in enumerate(odd)])
    assert read(store, *odd)["count"] == [i + 1 for i in range(len(odd))]


@ALL
def test_a_view_that_goes_takes_its_rows_along(
    tmp_path: Path, opened: Callable[[str], FeatureStore], kind: str
) -> None:
    config = opened(kind).config
    store = opened(kind)
    view = feature_view(Path(store.get_feature_view("facts").batch_source.path), name=f"brief_{kind[:3]}")
    store.apply([view])
    a = next(names)
    push(store, [row(a, 0, 0, 4)], view.name)
    assert read(store, a, refs=[f"{view.name}:count"])["count"] == [4]
    online = store._get_provider().online_store
    online.update(config, [view], [], [], [], True)
    online.update(config, [], [view], [], [], True)
    assert read(store, a, refs=[f"{view.name}:count"])["count"] == [None]
    assert read(store, next(names))["count"] == [None]


@OUR
def test_numpy_at_once(opened: Callable[[str], FeatureStore], kind: str) -> None:
    ids = [next(names) for _ in range(40)]
    store = opened(kind)
    push(store, [row(name, 0, 0, i + 1) for i, name in enumerate(ids)])
    response = store.get_online_features(["facts:vector", "facts:count"], {"seeker": [*ids, "nobody", ids[0]]})
    assert isinstance(response, PackedResponse)
    vectors, found = response.vectors("vector")
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [*range(1, 41), 0, 1]
    assert found.tolist() == [True] * 40 + [False, True]
    assert np.isnat(response.event_times("vector")).tolist() == (~found).tolist()
    with pytest.raises(ValueError, match="another type"):
        response.vectors("count")
    whole, _ = store.get_online_features(["facts:vector"], {"seeker": ids}).vectors("vector")
    assert whole[:, 0].tolist() == list(range(1, 41))


version = st.tuples(st.integers(-3, 3), st.one_of(st.none(), st.integers(-3, 3)))


@OUR
@settings(max_examples=40, deadline=None)
@given(writes=st.lists(st.lists(version, min_size=1, max_size=4), min_size=1, max_size=4))
def test_trap_6_the_newest_event_then_the_newest_created_wins_whatever_the_order(
    opened: Callable[[str], FeatureStore], kind: str, writes: list[list[tuple[int, int | None]]]
) -> None:
    a, value, newest, expected = next(names), 0, (-9, -9), 0
    store = opened(kind)
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    for batch in writes:
        rows = []
        for event, created in batch:
            value += 1
            made = row(a, event - 20_000, (created or 0) - 20_000, value)  # before 1970 at times
            made["created_timestamp"] = None if created is None else made["created_timestamp"]
            rows.append(made)
            if (event, -9 if created is None else created) >= newest:
                newest, expected = (event, -9 if created is None else created), value
        batch_of_rows = rows_table(rows).to_batches()[0]
        online.write_arrow(store.config, view, batch_of_rows, "event_timestamp", "created_timestamp")
        assert read(store, a)["count"] == [expected]


@OUR
def test_trap_6_a_missing_entity_is_not_reported_present(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a = next(names)
    store = opened(kind)
    push(store, [{**row(a, 0, 0, 1), "title": None}])
    response = store.get_online_features(["facts:count", "facts:title"], [{"seeker": a}, {"seeker": "nobody"}])
    results = by_name(response)
    assert list(results["count"].statuses) == [FieldStatus.PRESENT, FieldStatus.NOT_FOUND]
    assert list(results["title"].statuses) == [FieldStatus.NULL_VALUE, FieldStatus.NOT_FOUND]


@OUR
def test_trap_7_time_to_live_is_honoured_and_says_so(opened: Callable[[str], FeatureStore], kind: str) -> None:
    old, new = next(names), next(names)
    store = opened(kind)
    age = (datetime.now(UTC) - DAY) / timedelta(days=1)
    push(store, [row(old, age - 2.01, 0, 1), row(new, age - 1.99, 0, 2)], "fresh")
    response = store.get_online_features(["fresh:count"], [{"seeker": old}, {"seeker": new}])
    assert response.to_dict()["count"] == [None, 2]
    assert response.statuses("count") == [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.PRESENT]
    entity = EntityKeyProto(join_keys=["seeker"], entity_values=[ValueProto(string_val=old)])
    online = store._get_provider().online_store
    assert online.online_read(store.config, store.get_feature_view("fresh"), [entity]) == [(None, None)]
    assert read(store, "nobody", refs=["fresh:count"])["count"] == [None]


@OUR
@pytest.mark.parametrize("bad", [[1.0, 2.0], [float("nan")] * 4, [0.0] * 4, [1.0, float("inf"), 0.0, 0.0]])
def test_trap_8_bad_vectors_are_refused_by_id(
    opened: Callable[[str], FeatureStore], kind: str, bad: list[float]
) -> None:
    good, poor = next(names), next(names)
    store = opened(kind)
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    rows = [row(good, 0, 0, 1), {**row(poor, 0, 0, 1), "vector": bad}]
    batch = rows_table(rows).to_batches()[0]
    with pytest.raises(InvalidVectorError, match=repr(poor)):
        online.write_arrow(store.config, view, batch, "event_timestamp", "created_timestamp")
    protos = _convert_arrow_to_proto(rows_table([rows[0], row(poor, 0, 0, 1)]).to_batches()[0], view, TYPES)
    protos[1][1]["vector"].CopyFrom(ValueProto(float_list_val={"val": bad}))
    with pytest.raises(InvalidVectorError, match=repr(poor)):
        online.online_write_batch(store.config, view, protos, None)
    assert read(store, good)["count"] == [None]  # nothing of the batch was written


@OUR
def test_a_row_with_some_of_the_features_keeps_the_others(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a = next(names)
    store = opened(kind)
    push(store, [row(a, 0, 0, 1)])
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    key = EntityKeyProto(join_keys=["seeker"], entity_values=[ValueProto(string_val=a)])
    later = {"count": ValueProto(int64_val=9)}
    online.online_write_batch(store.config, view, [(key, later, DAY + timedelta(days=1), None)], None)
    found = read(store, a)
    assert (found["count"], found["title"]) == ([9], ["title 1"])


@OUR
def test_entities_can_be_deleted_and_listed(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a, b = next(names), next(names)
    store = opened(kind)
    push(store, [row(a, 0, 0, 1), row(b, 0, 0, 2)])
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    assert isinstance(online, PackedOnlineStore)
    key = EntityKeyProto(join_keys=["seeker"], entity_values=[ValueProto(string_val=a)])
    listed = set(online.keys(store.config, view))
    assert online.delete_entities(store.config, view, [key]) == 1
    assert online.delete_entities(store.config, view, [key]) == 0
    assert listed - set(online.keys(store.config, view)) == {serialize_entity_key(key)}
    assert read(store, a, b)["count"] == [None, 2]


@OUR
def test_async_reads_and_many_threads(opened: Callable[[str], FeatureStore], kind: str) -> None:
    ids = [next(names) for _ in range(50)]
    store = opened(kind)
    push(store, [row(name, 0, 0, i + 1) for i, name in enumerate(ids)])
    response = asyncio.run(store.get_online_features_async(["facts:count"], {"seeker": ids}))
    assert response.to_dict()["count"] == list(range(1, 51))
    failures: list[BaseException] = []

    def look() -> None:
        try:
            for i in range(30):
                assert read(store, ids[i], refs=["facts:count"])["count"] == [i + 1]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@ALL
def test_materialize_takes_the_newest_of_the_window(opened: Callable[[str], FeatureStore], kind: str) -> None:
    a, b = next(names), next(names)
    store = opened(kind)
    folder = Path(store.get_feature_view("facts").batch_source.path)
    rows = [row(a, 1, 1, 1), row(a, 2, 2, 2), row(a, 9, 2, 3), row(b, 0, 0, 4)]
    write_parts(folder, rows[::2], rows[1::2])
    store.materialize(DAY + timedelta(hours=1), DAY + timedelta(days=3), ["facts"])
    assert read(store, a, b)["count"] == [2, None]
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=10), ["facts"])
    assert read(store, a, b)["count"] == [3, 4]
    assert read(store, a)["words"] == [[]] or read(store, a)["words"] == [None]


@OUR
def test_trap_7_materialize_incremental_takes_rows_that_arrive_late(
    opened: Callable[[str], FeatureStore], kind: str
) -> None:
    early, late = next(names), next(names)
    store = opened(kind)
    folder = Path(store.get_feature_view("facts").batch_source.path)
    write_parts(folder, [row(early, 20, 20, 1)])
    store.materialize(DAY, DAY + timedelta(days=21), ["facts"])
    write_parts(folder, [row(early, 20, 20, 1)], [row(late, 5, 22, 2)])  # known on day 5, written on day 22
    store.materialize_incremental(DAY + timedelta(days=23), ["facts"])
    assert read(store, early, late)["count"] == [1, 2]


@OUR
def test_trap_4_no_chunk_is_left_out(opened: Callable[[str], FeatureStore], kind: str) -> None:
    ids = [next(names) for _ in range(25_000)]
    store = opened(kind)
    folder = Path(store.get_feature_view("facts").batch_source.path)
    write_parts(
        folder, *([row(name, 0, 0, 3) for name in ids[start : start + 5_000]] for start in range(0, 25_000, 5_000))
    )
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1), ["facts"])
    assert sum(count == 3 for count in read(store, *ids, refs=["facts:count"])["count"]) == 25_000


@OUR
def test_trap_5_a_failed_materialization_is_an_error_and_moves_no_mark(
    opened: Callable[[str], FeatureStore], kind: str
) -> None:
    store = opened(kind)
    folder = Path(store.get_feature_view("facts").batch_source.path)
    good, poor = next(names), next(names)
    write_parts(folder, [row(good, 0, 0, 1), {**row(poor, 0, 0, 1), "vector": [0.0] * 4}])
    before = store.get_feature_view("facts").materialization_intervals
    with pytest.raises(InvalidVectorError, match=repr(poor)):
        store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=30), ["facts"])
    assert store.get_feature_view("facts").materialization_intervals == before


def test_trap_5_offline_true_and_materialize(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", [row("a", 0, 0, 6)])
    view = feature_view(tmp_path / "parts", offline=True)
    store = open_store(tmp_path / "repo", [view], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE)
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1))
    assert read(store, "a")["count"] == [6]
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == 1  # rows that are there are not written again


def test_the_engine_works_with_feasts_own_stores(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", [row("a", 0, 0, 6), row("b", 0, 0, 7)])
    store = open_store(tmp_path / "repo", [feature_view(tmp_path / "parts")], engine=OUR_ENGINE)
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1))
    assert read(store, "b", "a")["count"] == [7, 6]


@pytest.mark.parametrize("kind", marked(["sqlite", "redis"]))
def test_each_line_can_be_taken_out_and_put_back(tmp_path: Path, kind: str) -> None:
    """One repo, one registry: Feast's own stores read the same parts, and give the same after a materialization."""
    rows = [row(f"s{i % 50}", i // 50, 0, i + 1) for i in range(120)]
    write_parts(tmp_path / "parts", rows[:70], rows[70:])
    refs, ids = ["facts:vector", "facts:count", "facts:title"], [f"s{i}" for i in range(60)]
    asked = pd.DataFrame({"seeker": ids, "event_timestamp": DAY + timedelta(days=1), "nth": range(60)})
    expected: tuple[Any, Any] | None = None
    with redis_server(tmp_path) if kind == "redis" else nullcontext() as port:
        place = {"connection_string": f"127.0.0.1:{port}"} if port else {}
        online_types = {True: OUR_REDIS if port else OUR_SQLITE, False: kind}
        for offline, online, engine in [(1, 1, 1), (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 0, 0), (1, 1, 1)]:
            store = open_store(
                tmp_path / "repo",
                [feature_view(tmp_path / "parts")],
                offline=OUR_OFFLINE if offline else "duckdb",
                online={"type": online_types[bool(online)], **place},
                engine=OUR_ENGINE if engine else None,
            )
            if expected is not None and online:
                assert read(store, *ids, refs=refs) == expected[1]  # what was there is still there
            store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=9))
            history = store.get_historical_features(asked, refs).to_df().sort_values("nth")[["nth", "count", "title"]]
            found = (history.to_dict("list"), read(store, *ids, refs=refs))
            expected = expected or found
            assert repr(found) == repr(expected), (offline, online, engine)
    assert expected is not None
    assert expected[1]["count"][:2] == [101, 102]
    assert expected[1]["count"][-1] is None


def test_a_sqlite_read_gives_up_in_time(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", [row("a", 0, 0, 6)])
    online = {"type": OUR_SQLITE, "read_deadline_ms": 0.0}
    store = open_store(tmp_path / "repo", [feature_view(tmp_path / "parts")], online=online)
    push(store, [row(f"s{i}", 0, 0, 1) for i in range(900)])  # writing has a time-out of its own
    with pytest.raises(DeadlineError, match="for 900 keys within 0 ms"):
        read(store, *(f"s{i}" for i in range(900)))


def test_two_writers_of_one_sqlite_file(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", [row("a", 0, 0, 6)])
    stores = [
        open_store(
            tmp_path / f"repo{i}",
            [feature_view(tmp_path / "parts")],
            online={"type": OUR_SQLITE, "path": str(tmp_path / "one.db")},
        )
        for i in range(2)
    ]
    threads = [
        threading.Thread(target=push, args=(store, [row(f"{i}-{n}", 0, 0, n + 1) for n in range(300)]))
        for i, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [f"{i}-{n}" for i in range(2) for n in range(300)]
    assert read(stores[0], *ids, refs=["facts:count"])["count"] == [*range(1, 301)] * 2


def test_a_server_that_drips_cannot_outlast_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                try:
                    for byte in b"*1\r\n$1000000\r\n" + b"x" * 1_000_000:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.01)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        reader = RedisReader("127.0.0.1", server.getsockname()[1], {})
        with pytest.raises(DeadlineError, match="within 80 ms"):
            reader.mget([b"key"], 80)
        thread.join(5)
        assert not thread.is_alive()  # the connection was closed


def test_a_connection_that_was_dropped_is_made_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_once_a_connection() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"*2\r\n$1\r\nx\r\n$-1\r\n")

        thread = threading.Thread(target=answer_once_a_connection)
        thread.start()
        reader = RedisReader("127.0.0.1", server.getsockname()[1], {})
        assert reader.mget([b"here", b"absent"], 5000) == [b"x", None]
        assert reader.mget([b"here", b"absent"], 5000) == [b"x", None]
        thread.join(5)
        reader.close()


@pytest.mark.parametrize("answer", [b"-LOADING still\r\n", b"*1\r\n$9\r\nhalf"])
def test_a_refusal_and_a_reset_are_named(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(StoreError, match=r"refuses: LOADING still|does not answer"):
            RedisReader("127.0.0.1", server.getsockname()[1], {}).mget([b"key"], 5000)
        thread.join(5)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(StoreError, match=f"127.0.0.1:{port} does not answer"):
        RedisReader("127.0.0.1", port, {}).mget([b"key"], 1000)


@pytest.mark.parametrize("text", ["a:1,b:2", "a:1,cluster=true", "db=1"])
def test_connection_strings_that_mean_something_else(text: str) -> None:
    with pytest.raises(StoreError, match="connection_string"):
        parse_connection_string(text)


@given(st.lists(st.text(st.characters(codec="utf-8"))), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_keys_are_feasts_own(texts: list[str], numbers: list[int]) -> None:
    for values, value_type, field in ((texts, ValueType.STRING, "string_val"), (numbers, ValueType.INT64, "int64_val")):
        protos = [ValueProto(**{field: value}) for value in values]
        expected = [serialize_entity_key(EntityKeyProto(join_keys=["id"], entity_values=[p])) for p in protos]
        assert single_keys("id", values, value_type, 3) == expected


floats = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3)
values = st.one_of(
    st.none(),
    floats.map(lambda v: ValueProto(float_list_val={"val": v})),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: ValueProto(int64_val=v)),
    st.integers(-(2**31), 2**31 - 1).map(lambda v: ValueProto(int32_val=v)),
    st.floats(allow_nan=False).map(lambda v: ValueProto(double_val=v)),
    st.booleans().map(lambda v: ValueProto(bool_val=v)),
    st.text(st.characters(codec="utf-8")).map(lambda v: ValueProto(string_val=v)),
    st.lists(st.text(st.characters(codec="utf-8"))).map(lambda v: ValueProto(string_list_val={"val": v})),
    st.binary().map(lambda v: ValueProto(bytes_val=v)),
)
moments = st.integers(-(2**62), 2**62)


@given(st.lists(st.none() | st.tuples(moments, st.none() | moments, st.lists(values, min_size=2, max_size=2))))
def test_packed_rows_come_back_whatever_is_in_them(rows: list[Any]) -> None:
    data = [
        None if r is None else pack(r[0], r[1], {n: pack_value(v) for n, v in zip("xy", r[2], strict=True)})
        for r in rows
    ]
    found = packed.unpack_rows(data, ["x", "y", "absent"])
    assert found.is_found.tolist() == [r is not None for r in rows]
    assert found.event_times.tolist() == [0 if r is None else r[0] for r in rows]
    for name in ("x", "y"):
        back: list[Any] = [None] * len(rows)
        for group in found.groups[name]:
            for i, value in zip(group.rows.tolist(), group.values, strict=True):
                back[i] = packed.to_value(group.kind, value)
        assert back == [None if r is None else r[2]["xy".index(name)] for r in rows]
    assert found.groups["absent"] == []


@given(st.lists(st.tuples(moments, moments, floats.map(lambda v: (v * 3)[:3]), st.integers(-(2**63), 2**63 - 1))))
def test_rows_packed_as_one_array_are_those_packed_one_by_one(rows: list[Any]) -> None:
    vectors = np.array([r[2] for r in rows], "<f4").reshape(len(rows), 3)
    counts = np.array([r[3] for r in rows], "<i8").reshape(-1, 1)
    columns = {"v": (packed.VECTOR, vectors.view(np.uint8)), "c": (packed.INT64, counts.view(np.uint8))}
    times = np.array([r[:2] for r in rows], np.int64).reshape(-1, 2)
    items = [
        {
            "v": pack_value(ValueProto(float_list_val={"val": r[2]})),
            "c": pack_value(ValueProto(int64_val=r[3])),
        }
        for r in rows
    ]
    expected = [pack(r[0], r[1], own) for r, own in zip(rows, items, strict=True)]
    assert packed.pack_rows(times[:, 0], times[:, 1], columns) == expected


def test_arrow_and_feasts_own_rows_are_packed_alike(opened: Callable[[str], FeatureStore]) -> None:
    view = opened("our-sqlite").get_feature_view("facts")
    plain = [row(f"s{i}", i, i, i + 1) for i in range(5)]
    for rows in (plain, [*plain, {**row("n", 0, 0, 1), "title": None, "words": None}]):
        batch = rows_table(rows).to_batches()[0]
        protos = _convert_arrow_to_proto(batch, view, TYPES)
        whole, partial = from_feast(view, protos, 3)
        assert partial == []
        assert from_arrow(view, batch, "event_timestamp", "created_timestamp", 3) == whole


def test_another_programs_bytes_are_named() -> None:
    with pytest.raises(StoreError, match="not of format 1"):
        packed.unpack_rows([b"{}" * 20], ["x"])


def test_float_fields_that_are_no_vectors_may_be_anything(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", [row("a", 0, 0, 6)])
    view = feature_view(tmp_path / "parts")
    for field in view.features:
        field.vector_length, field.vector_index = 0, False
    view.features.append(Field(name="weight", dtype=Float32))
    rows = pd.DataFrame(
        {
            "seeker": ["a"],
            "event_timestamp": [DAY],
            "created_timestamp": [DAY],
            "vector": [[0.0]],
            "weight": np.array([1.5], np.float32),
        }
    )
    batch = pa.RecordBatch.from_pandas(rows)
    view.features = [field for field in view.features if field.name in ("vector", "weight")]
    store = open_store(tmp_path / "repo", [view], online=OUR_SQLITE)
    online = store._get_provider().online_store
    online.write_arrow(store.config, view, batch, "event_timestamp", "created_timestamp")
    entity = EntityKeyProto(join_keys=["seeker"], entity_values=[ValueProto(string_val="a")])
    [(_, found)] = online.online_read(store.config, view, [entity])
    assert list(found["vector"].float_list_val.val) == [0.0]
    assert found["weight"].float_val == 1.5
