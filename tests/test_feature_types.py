"""Every Arrow type that a lake holds: what was written comes back offline and online, or is refused by name."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as Dec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    Struct,
    UnixTimestamp,
    Uuid,
)

from girl_features.errors import GirlError, InvalidVectorError, StoreError
from tests.feast_repos import (
    DAY,
    OUR_ENGINE,
    OUR_OFFLINE,
    OUR_REDIS,
    OUR_SQLITE,
    needs_redis,
    open_store,
    redis_server,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")

N_VALUES = 24  # of each type, beside the edges
NAN, INF = float("nan"), float("inf")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1, YEAR_9999 = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
ITEM = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
rng = random.Random(14)


class Case(NamedTuple):
    """A column of one Arrow type, the type that the view declares for it, and the values that must come back."""

    array: pa.Array
    dtype: Any
    expected: list[Any]


def text(_: int) -> str:
    return "".join(rng.choice(string.printable + "é\0日\U0001f600") for _ in range(rng.randrange(6)))


def whole(low: int, high: int) -> Callable[[int], int]:
    return lambda _: rng.choice([low, high, rng.randint(low, high), rng.randint(max(low, -9), min(high, 9))])


def real(_: int) -> float:
    return rng.choice([rng.gauss(0, 1), rng.uniform(-1e300, 1e300), 5e-324, NAN, INF, -INF, -0.0, 0.0])


def values(make: Callable[[int], Any], *edges: Any) -> list[Any]:
    """Return edges, generated values and nulls in any order."""
    found = [*edges, *map(make, range(N_VALUES)), None, None]
    rng.shuffle(found)
    return found


def lists(items: list[Any], *edges: Any) -> list[Any]:
    """Return lists of non-null items, empty lists and nulls."""
    known = [item for item in items if item is not None]
    return values(lambda _: rng.sample(known, rng.randrange(4)), [], *edges)


def moments(unit: str, zone: str | None) -> Case:
    """Return times of one unit and zone, from the year 1 to 9999 where the unit has them."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    first, last = (-2_208_988_800, 4_102_444_800) if unit == "ns" else (-62_135_596_800, 253_402_300_799)
    edge = [first * per_second, last * per_second, 0, -1, 1, -per_second - 1]
    ticks = values(lambda _: rng.randint(first * per_second, last * per_second), *edge)
    if unit == "ns" and zone:  # of which DuckDB cuts the digits towards 1970 while it reads a file
        ticks = [t if t is None or t >= 0 else t // 1000 * 1000 for t in ticks]
    array = pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone))
    return Case(array, UnixTimestamp, [None if t is None else as_time(t, per_second) for t in ticks])


def as_time(ticks: int, per_second: int) -> datetime:
    return EPOCH + timedelta(microseconds=ticks * 10**6 // per_second)  # rounded down, before 1970 too


def midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)


def same(array_type: pa.DataType, dtype: Any, made: list[Any]) -> Case:
    return Case(pa.array(made, array_type), dtype, made)


def scalar_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for bits in (8, 16, 32, 64):
        signed = whole(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        unsigned = whole(0, min(2**bits, 2**63) - 1)
        cases[f"int{bits}"] = same(getattr(pa, f"int{bits}")(), Int32 if bits < 64 else Int64, values(signed))
        cases[f"uint{bits}"] = same(getattr(pa, f"uint{bits}")(), Int32 if bits < 32 else Int64, values(unsigned))
    halves = [None if v is None else float(np.float16(v)) for v in values(lambda _: rng.gauss(0, 9), NAN, INF, 0.0)]
    cases["float16"] = same(pa.float16(), Float32, [None if v is None else np.float16(v) for v in halves])
    singles = [None if v is None else float(np.float32(v)) for v in values(lambda _: rng.gauss(0, 9), NAN, -INF)]
    cases["float32"] = same(pa.float32(), Float32, singles)
    cases["float64"] = same(pa.float64(), Float64, values(real))
    cases["bool"] = same(pa.bool_(), Bool, values(lambda _: rng.random() < 0.5))
    for name in ("string", "large_string", "string_view"):
        cases[name] = same(getattr(pa, name)(), String, values(text, "", "a\0b", "5"))
    octets = values(rng.randbytes, b"", b"\0")
    for name in ("binary", "large_binary", "binary_view"):
        cases[name] = same(getattr(pa, name)(), Bytes, octets)
    cases["fixed_size_binary"] = same(pa.binary(3), Bytes, values(lambda _: rng.randbytes(3)))
    days = values(lambda _: date.fromordinal(rng.randint(1, date.max.toordinal())), date.min, date.max)
    cases["date32"] = Case(pa.array(days, pa.date32()), UnixTimestamp, list(map(midnight, days)))
    cases["date64"] = Case(pa.array(days, pa.date64()), UnixTimestamp, list(map(midnight, days)))
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "Asia/Tokyo", "America/New_York"):
            cases[f"timestamp[{unit}, {zone}]"] = moments(unit, zone)
    exact = values(lambda _: Dec(rng.randint(-(10**27), 10**27)).scaleb(-9), Dec(0), Dec("-0.1"))
    cases["decimal128"] = same(pa.decimal128(38, 9), Decimal, exact)
    cases["decimal128 of few digits"] = Case(
        pa.array([Dec("1.10"), Dec("-0.3"), None], pa.decimal128(5, 2)), Float64, [1.1, -0.3, None]
    )
    cases["decimal128 of whole numbers"] = Case(
        pa.array([Dec(2**63 - 1), Dec(-(2**63)), None], pa.decimal128(38, 0)), Int64, [2**63 - 1, -(2**63), None]
    )
    cases["decimal256"] = same(pa.decimal256(38, 9), Decimal, exact)
    words = values(lambda _: rng.choice(["a", "b", "", "ç"]))
    cases["dictionary of strings"] = Case(pa.array(words).dictionary_encode(), String, words)
    numbers = values(whole(-9, 9))
    cases["dictionary of ints"] = Case(pa.array(numbers, pa.int64()).dictionary_encode(), Int64, numbers)
    for dtype in (Int32, Int64, Float32, Float64, Bool, String, Bytes, UnixTimestamp, Array(Int64), Array(Float32)):
        cases[f"null as {dtype}"] = Case(pa.nulls(5), dtype, [None] * 5)
    return cases


def list_cases(scalars: dict[str, Case]) -> dict[str, Case]:
    """Return a list of each type, in the three forms that Arrow has."""
    cases: dict[str, Case] = {}
    for i, (name, case) in enumerate(scalars.items()):
        if name.startswith(("null", "decimal")) or name.endswith("_view"):  # Arrow takes no rows of a view
            continue
        known = [row for row, value in enumerate(case.expected) if value is not None]
        picks = [None if rng.random() < 0.1 else rng.sample(known, rng.randrange(4)) for _ in range(N_VALUES)]
        expected = [None if pick is None else [case.expected[row] for row in pick] for pick in picks]
        offsets = np.concatenate([[0], np.cumsum([len(pick or []) for pick in picks])])
        items = case.array.take(pa.array([row for pick in picks for row in pick or []], pa.int64()))
        mask = pa.array([pick is None for pick in picks])
        if i % 2:
            array = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), items, mask=mask)
        else:
            array = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=mask)
        cases[f"list of {name}"] = Case(array, Array(case.dtype), expected)
        pairs = [known[:2], known[2:4], known[-2:]]
        flat = case.array.take(pa.array([row for pair in pairs for row in pair], pa.int64()))
        cases[f"fixed_size_list of {name}"] = Case(
            pa.FixedSizeListArray.from_arrays(flat, 2),
            Array(case.dtype),
            [[case.expected[row] for row in pair] for pair in pairs],
        )
    return cases


def odd_cases() -> dict[str, Case]:
    """Return types that fit a declared type of another kind, and those that have no column type in Feast."""
    gap = [1.5, None, NAN]
    return {
        "missing entries in float32 lists": Case(
            pa.array([gap, [None], [], None], pa.list_(pa.float32())),
            Array(Float32),
            [[1.5, NAN, NAN], [NAN], [], None],
        ),
        "missing entries in float64 lists": Case(
            pa.array([gap, [None], [], None], pa.list_(pa.float64())),
            Array(Float64),
            [[1.5, NAN, NAN], [NAN], [], None],
        ),
        "missing entries in fixed-size lists": Case(
            pa.array([[1.5, None], None], pa.list_(pa.float64(), 2)), Array(Float64), [[1.5, NAN], None]
        ),
        "lists of nulls as floats": Case(pa.array([[None], []], pa.list_(pa.null())), Array(Float32), [[NAN], []]),
        "empty lists of nulls": Case(pa.array([[], None], pa.list_(pa.null())), Array(Int64), [[], None]),
        "whole floats": Case(pa.array([1.0, NAN, None, -(2.0**53)]), Int64, [1, None, None, -(2**53)]),
        "0 and 1": Case(pa.array([0, 1, None], pa.int8()), Bool, [False, True, None]),
        "booleans as numbers": Case(pa.array([False, True, None]), Int64, [0, 1, None]),
        "integers as floats": Case(pa.array([2**53, -1, None]), Float64, [2.0**53, -1.0, None]),
        "doubles as floats": Case(pa.array([0.1, INF, NAN]), Float32, [float(np.float32(0.1)), INF, NAN]),
        "large integers as floats": Case(pa.array([2**60, -(2**63), None]), Float64, [2.0**60, -(2.0**63), None]),
        "unsigned integers as floats": Case(pa.array([2**63], pa.uint64()), Float64, [2.0**63]),
        "integers as short floats": Case(pa.array([2**24 + 1, 7, None]), Float32, [2.0**24, 7.0, None]),
        "decimals as floats": Case(
            pa.array([Dec(2**63), Dec("0.1"), None], pa.decimal128(38, 2)), Float64, [2.0**63, 0.1, None]
        ),
        "decimals as short floats": Case(
            pa.array([Dec(2**24 + 1), Dec("0.1")], pa.decimal128(38, 2)), Float32, [2.0**24, float(np.float32(0.1))]
        ),
        "maps": Case(
            pa.array([[("a", 1), ("b", 2)], [], None], pa.map_(pa.string(), pa.int64())),
            Map,
            [{"a": 1, "b": 2}, {}, None],
        ),
        "structs": Case(
            pa.array([{"a": 1, "b": "x"}, None]), Struct({"a": Int64, "b": String}), [{"a": 1, "b": "x"}, None]
        ),
        "sets": Case(pa.array([["a", "b"], None]), Set(String), [["a", "b"], None]),
        "JSON": Case(pa.array(['{"a": [1, 2]}', None]), Json, [{"a": [1, 2]}, None]),
        "ids": Case(
            pa.array(["0b0e2d34-9f3c-4d3b-9f5f-0f4f5b0d5a11", None]),
            Uuid,
            ["0b0e2d34-9f3c-4d3b-9f5f-0f4f5b0d5a11", None],
        ),
    }


def refused_cases() -> dict[str, tuple[Any, Any, str]]:
    """Return columns that have no equal in Feast: the array, the declared type, and what the message says."""
    hole = "missing entry"
    return {
        "uint64 above 2**63": (pa.array([2**63], pa.uint64()), Int64, "9223372036854775808 has no equal"),
        "int64 as Int32": (pa.array([2**31]), Int32, "2147483648 has no equal"),
        "int64 as Float64": (pa.array([2**53 + 1]), Float64, "9007199254740993 has no equal"),
        "the largest int64 as Float64": (pa.array([2**63 - 1]), Float64, "9223372036854775807 has no equal"),
        "int64 as Float32": (pa.array([2**53 + 1]), Float32, "9007199254740993 has no equal"),
        "a broken number": (pa.array([1.5]), Int64, "1.5 has no equal"),
        "an infinite number": (pa.array([INF]), Int64, "inf has no equal"),
        "a double beyond floats": (pa.array([1e300]), Float32, "1e[+]300 has no equal"),
        "2 as Bool": (pa.array([2]), Bool, "2 has no equal"),
        "a decimal of many digits": (pa.array([Dec("0.12345678901234567890")]), Float64, "no equal in Float64"),
        "a broken decimal": (pa.array([Dec("1.5")]), Int64, "no equal in Int64"),
        "decimal256": (pa.array([Dec("1" * 50)], pa.decimal256(50, 0)), Decimal, r"decimal256\(50, 0\)"),
        "numbers as text": (pa.array([5]), String, "int64.*declares String"),
        "text as numbers": (pa.array(["5"]), Int64, "string.*declares Int64"),
        "bytes as text": (pa.array([b"\xff"]), String, "binary.*declares String"),
        "text as times": (pa.array(["2024-01-01"]), UnixTimestamp, "string.*declares UnixTimestamp"),
        "numbers as times": (pa.array([5]), UnixTimestamp, "int64.*declares UnixTimestamp"),
        "times as numbers": (pa.array([DAY]), Int64, "timestamp.*declares Int64"),
        "lists as numbers": (pa.array([[5]]), Int64, "list.*declares Int64"),
        "numbers as lists": (pa.array([5]), Array(Int64), "int64.*declares Array"),
        "the year 10000": (pa.array([253_402_300_800], pa.timestamp("s")), UnixTimestamp, "no equal in UnixTimestamp"),
        "the year 0": (pa.array([-62_135_596_801_000], pa.timestamp("ms")), UnixTimestamp, "no equal"),
        "time32": (pa.array([5], pa.time32("s")), Int64, "time.*declares Int64"),
        "time64": (pa.array([5], pa.time64("ns")), UnixTimestamp, "time64.*declares UnixTimestamp"),
        "duration": (pa.array([5], pa.duration("us")), Int64, r"duration\[us\]"),
        "list of durations": (pa.array([[5]], pa.list_(pa.duration("s"))), Array(Int64), r"duration\[s\]"),
        "a hole in integers": (pa.array([[1, None]]), Array(Int64), hole),
        "a hole in small integers": (pa.array([[1, None]], pa.list_(pa.int8())), Array(Int32), hole),
        "a hole in booleans": (pa.array([[True, None]]), Array(Bool), hole),
        "a hole in strings": (pa.array([["a", None]]), Array(String), hole),
        "a hole in bytes": (pa.array([[b"a", None]]), Array(Bytes), hole),
        "a hole in times": (pa.array([[DAY, None]]), Array(UnixTimestamp), hole),
        "a hole in dates": (pa.array([[date.min, None]]), Array(UnixTimestamp), hole),
        "NaN in integers": (pa.array([[1.0, NAN]]), Array(Int64), hole),
        "nulls as strings": (pa.array([[None]], pa.list_(pa.null())), Array(String), hole),
    }


SCALARS = scalar_cases()
GOOD = {**SCALARS, **list_cases(SCALARS), **odd_cases()}
REFUSED = refused_cases()


def plain(value: Any) -> Any:
    """Return a value in which equal values are equal: NaN too, times in UTC, sets and maps in an order."""
    if isinstance(value, float | np.floating):
        return "NaN" if np.isnan(value) else float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if type(value).__name__ == "UUID" else value


def table_of(array: pa.Array) -> pa.Table:
    n = len(array)
    times = pa.array([DAY] * n, pa.timestamp("us", "UTC"))
    return pa.table({"item": [f"i{i}" for i in range(n)], "event_timestamp": times, "value": array})


def view_of(name: str, folder: Path, dtype: Any, **options: Any) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[ITEM],
        schema=[Field(name="item", dtype=String), Field(name="value", dtype=dtype, **options)],
        source=FileSource(
            name=f"{name}_source",
            path=str(folder),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
        ),
        ttl=timedelta(0),
    )


def parts_of(folder: Path, table: pa.Table) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "lake.parquet")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of Parquet for each case that fits."""
    root = tmp_path_factory.mktemp("lake")
    return {name: parts_of(root / f"v{i}", table_of(case.array)) for i, (name, case) in enumerate(GOOD.items())}


VIEWS = {name: f"v{i}" for i, name in enumerate(GOOD)}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FeatureStore]:
    """A repo with a view for each case, materialized by our engine."""
    if request.param == "redis" and (reason := needs_redis()):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(request.param)
    views = [ITEM, *(view_of(VIEWS[name], folders[name], case.dtype) for name, case in GOOD.items())]
    if request.param == "sqlite":
        yield materialized(open_store(folder, views, offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE))
        return
    with redis_server(folder) as port:
        online = {"type": OUR_REDIS, "connection_string": f"127.0.0.1:{port}", "read_deadline_ms": 5000}
        yield materialized(open_store(folder, views, offline=OUR_OFFLINE, online=online, engine=OUR_ENGINE))


def materialized(store: FeatureStore) -> FeatureStore:
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1))
    return store


def online_values(store: FeatureStore, view: str, n: int) -> list[Any]:
    found = store.get_online_features([f"{view}:value"], {"item": [f"i{i}" for i in range(n)]})
    return list(found.to_dict()["value"])


def history(store: FeatureStore, view: FeatureView, n: int) -> list[Any]:
    asked = pd.DataFrame({"item": [f"i{i}" for i in range(n)], "event_timestamp": [DAY] * n})
    job = store._get_provider().offline_store.get_historical_features(
        store.config, [view], [f"{view.name}:value"], asked, store.registry, store.project
    )
    return list(job.to_arrow()["value"].to_pylist(maps_as_pydicts="strict"))


def test_there_are_a_thousand_values() -> None:
    assert sum(len(case.expected) for case in GOOD.values()) > 1_500
    assert len(GOOD) > 90


@pytest.mark.parametrize("name", GOOD)
def test_what_was_written_is_served_online(store: FeatureStore, name: str) -> None:
    case = GOOD[name]
    found = online_values(store, VIEWS[name], len(case.array))
    assert plain(found) == plain(case.expected)
    kinds = {type(value) for value in found}, {type(value) for value in case.expected}
    assert (bool in kinds[0]) == (bool in kinds[1])


@pytest.mark.parametrize("name", GOOD)
def test_what_was_written_is_in_history_and_survives_an_append(
    plain_store: FeatureStore, folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    case = GOOD[name]
    table, n = table_of(case.array), len(case.array)
    wanted = ['{"a": [1, 2]}', None] if case.dtype == Json else plain(case.expected)
    assert plain(history(plain_store, view_of("lake", folders[name], case.dtype), n)) == wanted
    turn = list(GOOD).index(name) % 3  # a new folder, one that has a part, or one file
    place, n_there = tmp_path / "parts", int(turn > 0)
    if n_there:
        parts_of(place, table.slice(0, n_there))
    grown = view_of("grown", place / "lake.parquet" if turn == 2 else place, case.dtype)
    plain_store._get_provider().offline_store.offline_write_batch(plain_store.config, grown, table.slice(n_there), None)
    assert plain(history(plain_store, grown, n)) == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_equal_is_refused_by_name(tmp_path: Path, plain_store: FeatureStore, name: str) -> None:
    array, dtype, message = REFUSED[name]
    sound = pa.nulls(1, array.type)
    table = table_of(pa.concat_arrays([sound, array]))
    view = view_of("facts", parts_of(tmp_path / "parts", table), dtype)
    provider: Any = plain_store._get_provider()
    provider.online_store.update(plain_store.config, [], [view], [], [], True)
    told = f"'value'.*{message}"
    if name != "decimal256":  # which DuckDB alone cannot read
        with pytest.raises(GirlError, match=told):
            provider.online_store.write_arrow(plain_store.config, view, table.to_batches()[0], "event_timestamp", None)
    with pytest.raises(GirlError, match=told):
        raise materialize_error(plain_store, view)
    with pytest.raises(GirlError, match=told):
        history(plain_store, view, 2)
    if "duration" in message or "decimal256" in message:
        return
    empty = view_of("facts", tmp_path / "new", dtype)
    with pytest.raises(GirlError, match=rf"(?s)'facts'.*{told}"):
        provider.offline_store.offline_write_batch(plain_store.config, empty, table, None)


@pytest.fixture(scope="module")
def plain_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return open_store(tmp_path_factory.mktemp("plain"), [], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE)


def materialize_error(store: FeatureStore, view: FeatureView) -> BaseException:
    """Return the error of a materialization of `view` by our engine, without a registry."""
    from feast.infra.common.materialization_job import MaterializationTask

    engine: Any = store._get_provider().batch_engine
    start, end = DAY - timedelta(days=1), DAY + timedelta(days=1)
    task = MaterializationTask(store.project, view, start, end, lambda n: None)
    error = engine._materialize_one(store.registry, task).error()
    assert error is not None
    return error


TIME_TYPES = [
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo")),
    pa.date32(),
    pa.date64(),
]


@pytest.mark.parametrize("time_type", TIME_TYPES, ids=str)
@pytest.mark.parametrize("created", [False, True])
def test_event_and_created_times_of_any_type_publish(
    plain_store: FeatureStore, tmp_path: Path, time_type: pa.DataType, created: bool
) -> None:
    days = [(DAY + timedelta(days=day)).replace(tzinfo=None) for day in range(3)]
    times = pa.array(days, pa.timestamp("us")).cast(time_type)
    table = pa.table({"item": ["i0"] * 3, "event_timestamp": times, "made": times[::-1], "value": [1, 2, 3]})
    view = view_of("timed", parts_of(tmp_path / "parts", table), Int64)
    if created:
        view.batch_source.created_timestamp_column = "made"
    provider: Any = plain_store._get_provider()
    provider.online_store.drop_view(plain_store.config, view)
    from feast.infra.common.materialization_job import MaterializationTask

    task = MaterializationTask(plain_store.project, view, DAY - timedelta(days=1), DAY + timedelta(days=1), print)
    job = provider.batch_engine._materialize_one(plain_store.registry, task)
    assert job.error() is None
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["item"], entity_values=[Value(string_val="i0")])
    [(at, found)] = provider.online_store.online_read(plain_store.config, view, [key])
    assert (at, found["value"].int64_val) == (DAY + timedelta(days=1), 2)
    assert history(plain_store, view, 1) == [1]
    provider.offline_store.offline_write_batch(plain_store.config, view, table.slice(0, 1), None)


@pytest.mark.parametrize(
    "times", [pa.array(["2024-05-01"]), pa.array([1]), pa.array([None], pa.timestamp("us", "UTC"))]
)
def test_event_times_that_are_none_are_refused(plain_store: FeatureStore, tmp_path: Path, times: pa.Array) -> None:
    table = pa.table({"item": ["i0"], "event_timestamp": times, "value": [1]})
    view = view_of("timed", tmp_path / "parts", Int64)
    provider: Any = plain_store._get_provider()
    with pytest.raises(StoreError, match="'timed', column 'event_timestamp'"):
        provider.online_store.write_arrow(plain_store.config, view, table.to_batches()[0], "event_timestamp", None)
    with pytest.raises(StoreError, match="'timed', column 'event_timestamp'"):
        provider.offline_store.offline_write_batch(plain_store.config, view, table, None)


@pytest.mark.parametrize("item", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("bad", [[1.0, None], [None, None], [1.0, NAN], [1.0, INF], [0.0, 0.0], [1.0]])
def test_a_vector_with_a_missing_entry_is_refused_with_its_id(
    plain_store: FeatureStore, tmp_path: Path, item: pa.DataType, bad: list[Any]
) -> None:
    table = table_of(pa.array([[1.0, 2.0], None, bad], pa.list_(item)))
    dtype = Array(Float32) if item == pa.float32() else Array(Float64)
    view = view_of("vectors", tmp_path / "parts", dtype, vector_index=True, vector_length=2)
    provider: Any = plain_store._get_provider()
    with pytest.raises(InvalidVectorError, match="'i2'"):
        provider.online_store.write_arrow(plain_store.config, view, table.to_batches()[0], "event_timestamp", None)
    with pytest.raises(InvalidVectorError, match="'i2'"):
        provider.offline_store.offline_write_batch(plain_store.config, view, table, None)


PAIRS = [
    (pa.array([True]), pa.array([2])),
    (pa.array([1]), pa.array([1.5])),
    (pa.array([1]), pa.array(["x"])),
    (pa.array(["x"]), pa.array([b"x"])),
    (pa.array([date.min]), pa.array([DAY])),
    (pa.array([[1]]), pa.array([[1.5]])),
    (pa.array([Dec("1.5")]), pa.array([1.5])),
]


def test_large_integers_beside_misses_stay_whole_in_pandas(plain_store: FeatureStore, tmp_path: Path) -> None:
    numbers = [2**63 - 1, 2**53 + 1, None, -(2**63)]
    view = view_of("facts", parts_of(tmp_path / "parts", table_of(pa.array(numbers))), Int64)
    asked = pd.DataFrame({"item": ["i0", "i1", "i2", "i3", "i9"], "event_timestamp": [DAY] * 5})
    job = plain_store._get_provider().offline_store.get_historical_features(
        plain_store.config, [view], ["facts:value"], asked, plain_store.registry, plain_store.project
    )
    assert [None if pd.isna(value) else int(value) for value in job.to_df()["value"]] == [*numbers, None]


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(("first", "second"), PAIRS, ids=str)
def test_files_that_disagree_are_refused_by_name(
    plain_store: FeatureStore, tmp_path: Path, first: pa.Array, second: pa.Array, turn: int
) -> None:
    folder = parts_of(tmp_path / "parts", table_of([first, second][::turn][0]))
    pq.write_table(table_of([first, second][::turn][1]), folder / "next.parquet")
    for dtype in (Int64, Float64):
        view = view_of("mixed", folder, dtype)
        with pytest.raises(StoreError, match=r"'value' is .*lake\.parquet and .*next\.parquet"):
            history(plain_store, view, 1)
        with pytest.raises(StoreError, match=r"'value' is .*lake\.parquet and .*next\.parquet"):
            raise materialize_error(plain_store, view)


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.parametrize(
    ("first", "second", "dtype", "expected"),
    [
        (pa.nulls(1), pa.array([2**40]), Int64, [None, 2**40]),
        (pa.nulls(1), pa.array(["x"]), String, [None, "x"]),
        (pa.nulls(1), pa.array([[0.5]]), Array(Float64), [None, [0.5]]),
        (pa.array([1], pa.int8()), pa.array([2**40]), Int64, [1, 2**40]),
        (pa.array([2**63 - 1], pa.uint64()), pa.array([-1]), Int64, [2**63 - 1, -1]),
        (pa.array([0.5], pa.float32()), pa.array([0.1]), Float64, [0.5, 0.1]),
        (pa.array([DAY.replace(tzinfo=None)], pa.timestamp("ns")), pa.array([DAY]), UnixTimestamp, [DAY, DAY]),
        (pa.array([[1]], pa.list_(pa.int8())), pa.array([[2**40]]), Array(Int64), [[1], [2**40]]),
        (pa.array([[0.5]], pa.list_(pa.float32())), pa.array([[0.1]]), Array(Float64), [[0.5], [0.1]]),
    ],
    ids=str,
)
def test_files_may_differ_where_each_means_what_it_means_alone(
    plain_store: FeatureStore, tmp_path: Path, first: pa.Array, second: pa.Array, dtype: Any, expected: Any, turn: int
) -> None:
    arrays, wanted = [first, second][::turn], expected[::turn]
    folder = parts_of(tmp_path / "parts", table_of(arrays[0]))
    other = table_of(arrays[1]).set_column(0, "item", pa.array(["i1"]))
    pq.write_table(other, folder / "next.parquet")
    assert plain(history(plain_store, view_of("mixed", folder, dtype), 2)) == plain(wanted)
