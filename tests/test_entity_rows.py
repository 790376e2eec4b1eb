"""Entity rows of history joins and ids of online requests, as users have them: empty, odd, with names of ours."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.errors import FeatureNameCollisionError
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.errors import DataError
from girl_features.store.entity_ids import exact_ids
from girl_features.store.offline.entity_rows import check_names, entity_table, numbered_keys
from tests.feast_repos import DAY, FEATURES, OUR_OFFLINE, OUR_SQLITE, feature_view, open_store, row, write_parts

REFS = [f"facts:{name}" for name in FEATURES]
AT = pd.Timestamp(DAY + timedelta(days=3))
pytestmark = pytest.mark.filterwarnings("ignore:.*(fetch_arrow_table|On demand|on demand).*")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two views, `facts` and `more`, with the same features, of the seekers '5' and '6'."""
    folder = tmp_path_factory.mktemp("entities")
    write_parts(folder / "parts", [row("5", 0, 0, 1), row("5", 1, 1, 2), row("6", 0, 0, 3)])
    facts = feature_view(folder / "parts")
    more = feature_view(folder / "parts", name="more")

    @on_demand_feature_view(
        sources=[facts[["count"]]],
        schema=[Field(name="twice", dtype=Int64)],
        mode="python",
        write_to_online_store=False,
    )
    def doubled(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"twice": [None if value is None else 2 * value for value in inputs["count"]]}

    opened = open_store(folder / "repo", [facts, more, doubled], offline=OUR_OFFLINE, online=OUR_SQLITE)
    opened.materialize(DAY - timedelta(days=1), DAY + timedelta(days=2))
    return opened


def history(store: FeatureStore, frame: pd.DataFrame, refs: Any = REFS, **options: Any) -> pa.Table:
    return store.get_historical_features(frame, list(refs), **options).to_arrow()


def rows_of(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"seeker": ["5", "6"], "event_timestamp": [AT, AT]} | columns)


EMPTY: dict[str, Callable[[int], pd.DataFrame]] = {
    "object": lambda n: pd.DataFrame({"seeker": [None] * n, "event_timestamp": [None] * n}, dtype=object),
    "float ids": lambda n: pd.DataFrame({"seeker": [np.nan] * n, "event_timestamp": [pd.NaT] * n}, dtype=None),
    "float times": lambda n: pd.DataFrame({"seeker": ["5"] * n, "event_timestamp": np.full(n, np.nan)}),
    "NaT": lambda n: pd.DataFrame({"seeker": ["5"] * n, "event_timestamp": pd.to_datetime([None] * n, utc=True)}),
    "no ids": lambda n: pd.DataFrame({"seeker": [None] * n, "event_timestamp": [AT] * n}),
    "string": lambda n: pd.DataFrame({"seeker": pd.array([None] * n, "string"), "event_timestamp": [AT] * n}),
    "Int64": lambda n: pd.DataFrame({"seeker": pd.array([None] * n, "Int64"), "event_timestamp": [AT] * n}),
    "category": lambda n: pd.DataFrame({"seeker": pd.Categorical([None] * n), "event_timestamp": [AT] * n}),
    "Arrow null": lambda n: pd.DataFrame(
        {"seeker": pd.array([None] * n, pd.ArrowDtype(pa.null())), "event_timestamp": [AT] * n}
    ),
}


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("kind", EMPTY)
def test_empty_and_all_missing_entity_rows_give_an_empty_or_null_result(store: FeatureStore, kind: str, n: int) -> None:
    usual = history(store, rows_of())
    found = history(store, EMPTY[kind](n).assign(label=range(n)))
    assert found.num_rows == n
    assert found.column_names == ["seeker", "event_timestamp", "label", *FEATURES]
    assert found.select(FEATURES).schema == usual.select(FEATURES).schema
    assert all(found[name].null_count == n for name in FEATURES)


TOKYO = timezone(timedelta(hours=9))
TIMES: dict[str, Any] = {
    **{
        f"datetime64[{unit}]": pd.Series([AT.tz_localize(None)]).astype(f"datetime64[{unit}]")
        for unit in ["s", "ms", "us", "ns"]
    },
    **{f"{unit} UTC": pd.Series([AT]).astype(f"datetime64[{unit}, UTC]") for unit in ["s", "ms", "us", "ns"]},
    "Tokyo": pd.Series([AT.tz_convert("Asia/Tokyo")]),
    "datetimes": pd.Series([AT.to_pydatetime()], dtype=object),
    "naive datetimes": pd.Series([AT.to_pydatetime().replace(tzinfo=None)], dtype=object),
    "datetimes of a zone": pd.Series([AT.to_pydatetime().astimezone(TOKYO)], dtype=object),
    "dates": pd.Series([AT.date()], dtype=object),
    "text": pd.Series(["2024-05-04 00:00:00"]),
    "text of dates": pd.Series(["2024-05-04"], dtype="string"),
    "text with a zone": pd.Series(["2024-05-04T09:00:00+09:00"]),
    "categories": pd.Series(["2024-05-04"]).astype("category"),
    "Arrow times": pd.Series([AT], dtype=pd.ArrowDtype(pa.timestamp("us", "UTC"))),
    "Arrow naive": pd.Series([AT.tz_localize(None)], dtype=pd.ArrowDtype(pa.timestamp("ns"))),
    "Arrow dates": pd.Series([AT.date()], dtype=pd.ArrowDtype(pa.date32())),
    "Arrow text": pd.Series(["2024-05-04"], dtype="string[pyarrow]"),
    "far datetimes": pd.Series([datetime(2500, 1, 1)], dtype=object),
    "far dates": pd.Series([date(9999, 1, 1)], dtype=object),
    "far text": pd.Series(["2500-01-01T00:00:00+09:00"]),
    "far us": pd.Series([np.datetime64("2500-01-01", "us")]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_any_type_are_joined(store: FeatureStore, kind: str) -> None:
    frame = pd.DataFrame({"seeker": ["5"], "event_timestamp": TIMES[kind]})
    assert history(store, frame)["count"].to_pylist() == [2]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([1_714_780_800, 0], "holds numbers"),
        ([1.5, None], "holds numbers"),
        ([True, False], "holds numbers"),
        (["soon", "2024-05-04"], "ISO 8601"),
        (["05/04/2024", None], "ISO 8601"),
        (["9999-99-99", None], "ISO 8601"),
        ([[], None], "should hold datetimes"),
        (np.array(["20000-01-01", "2024-01-01"], "datetime64[s]"), "1 to 9999"),
    ],
)
def test_times_that_cannot_be_read_are_refused_by_name(store: FeatureStore, times: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"'event_timestamp' of the entity rows .*{said}"):
        history(store, rows_of(event_timestamp=times))


def test_nanoseconds_are_rounded_down_before_and_after_1970() -> None:
    times = pd.to_datetime([-1, 0, 999, 1000], unit="ns", utc=True)
    entities, at = entity_table(pd.DataFrame({"seeker": list("abcd"), "event_timestamp": times}), {"seeker"})
    rounded = numbered_keys(entities, at, [])["at"].cast(pa.int64()).to_pylist()
    assert rounded == [-1, 0, 0, 1]


def test_a_feature_that_the_entity_rows_carry_is_refused(store: FeatureStore) -> None:
    with pytest.raises(DataError, match=r"already have 'count', 'title'.*full_feature_names=True"):
        history(store, rows_of(count=7, title="x"))
    full = history(store, rows_of(count=7), full_feature_names=True)
    assert full["count"].to_pylist() == [7, 7] and full["facts__count"].to_pylist() == [2, 3]
    with pytest.raises(DataError, match="already have 'facts__count'"):
        history(store, rows_of(facts__count=7), full_feature_names=True)
    other_case = history(store, rows_of(Count=7))
    assert other_case["Count"].to_pylist() == [7, 7] and other_case["count"].to_pylist() == [2, 3]


def test_two_features_of_one_name_are_refused(store: FeatureStore) -> None:
    with pytest.raises(FeatureNameCollisionError):
        history(store, rows_of(), ["facts:count", "more:count"])
    # Feast does not check the features that an on-demand view asks for by itself
    with pytest.raises(DataError, match="two features of this request are called 'count'"):
        history(store, rows_of(), ["more:count", "doubled:twice"])
    both = history(store, rows_of(), ["more:count", "doubled:twice"], full_feature_names=True)
    assert both["doubled__twice"].to_pylist() == [4, 6]
    with pytest.raises(DataError, match="already have 'twice'"):
        history(store, rows_of(twice=1), ["doubled:twice"])
    with pytest.raises(DataError, match="'a__b__c'"):
        check_names(["seeker"], ["a__b__c", "a__b__c"])


def test_missing_and_doubled_columns_are_named(store: FeatureStore) -> None:
    with pytest.raises(DataError, match=r"no column 'seeker', by which .*found 'Seeker', 'event_timestamp'"):
        history(store, rows_of().rename(columns={"seeker": "Seeker"}))
    doubled = pd.concat([rows_of(), pd.DataFrame({"label": [1, 2]}), pd.DataFrame({"label": [1, 2]})], axis=1)
    with pytest.raises(DataError, match="two columns 'label'"):
        entity_table(doubled, {"seeker"})
    with pytest.raises(DataError, match="no column 'event_timestamp'"):
        entity_table(pd.DataFrame({"seeker": ["5"]}), {"seeker"})
    with pytest.raises(DataError, match="column 'mixed' of the entity rows"):
        history(store, rows_of(mixed=[1, "x"]))


@pytest.mark.parametrize(
    "name", ["girl_row", "row", "at", "e0", "entity", "place", "event_timestamp_1", "Event_Timestamp"]
)
def test_entity_columns_may_have_any_name(store: FeatureStore, name: str) -> None:
    found = history(store, rows_of(**{name: ["x", "y"]}))
    assert found[name].to_pylist() == ["x", "y"] and found["count"].to_pylist() == [2, 3]


def test_large_integer_ids_are_joined_exactly_through_feast(tmp_path: Path) -> None:
    """DuckDB compares BIGINT with DOUBLE as DOUBLE, in which 2**53 and 2**53 + 1 are one number."""
    ids = [2**53, 2**53 + 1, 7]
    times = pa.array([DAY] * 3, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"seeker": ids, "event_timestamp": times, "nth": [0, 1, 2]}), tmp_path / "facts.parquet")
    source = FileSource(
        path=str(tmp_path / "facts.parquet"), file_format=ParquetFormat(), timestamp_field="event_timestamp"
    )
    entity = Entity(name="person", join_keys=["seeker"], value_type=ValueType.INT64)
    fields = [Field(name="seeker", dtype=Int64), Field(name="nth", dtype=Int64)]
    view = FeatureView(name="numbers", entities=[entity], schema=fields, source=source)
    store = open_store(tmp_path / "repo", [entity, view], offline=OUR_OFFLINE)

    def nth(ids: Any) -> list[Any]:
        return history(store, pd.DataFrame({"seeker": ids, "event_timestamp": AT}), ["numbers:nth"])["nth"].to_pylist()

    assert nth(ids) == [0, 1, 2]
    assert nth(pd.array([2**53 + 1, None], "Int64")) == [1, None]
    assert nth([7, None]) == [2, None]
    with pytest.raises(DataError, match=r"row 0 holds 9007199254740992\.0"):
        nth([2**53 + 1, None])
    with pytest.raises(DataError, match="ids of different kinds"):
        nth(["7"])


def online(store: FeatureStore, ids: Any) -> list[Any]:
    return store.get_online_features(["facts:count"], {"seeker": ids}).to_dict()["count"]


@pytest.mark.parametrize(
    "ids",
    [["5"], [5], [np.int64(5)], (5,), np.array(["5"]), np.array([5]), pd.Series(["5"]), [np.str_("5")], ["5", 5][:1]],
)
def test_online_ids_that_are_the_same_text(store: FeatureStore, ids: Any) -> None:
    assert online(store, ids) == [2]
    assert store.get_online_features(["facts:count"], [{"seeker": i} for i in ids]).to_dict()["count"] == [2]
    assert online(store, ["6", *ids]) == [3, 2]


@pytest.mark.parametrize("wrong", [5.0, None, b"5", True, Decimal("5.0"), float("nan"), np.float64(5), [5], "\ud800"])
@pytest.mark.parametrize("refs", [["facts:count"], ["doubled:twice"]])
def test_online_ids_that_would_be_missed_are_refused(store: FeatureStore, wrong: Any, refs: list[str]) -> None:
    with pytest.raises(DataError, match=r"the id .* of 'seeker' cannot be"):
        store.get_online_features(refs, {"seeker": ["5", wrong]})
    with pytest.raises(DataError, match=r"the id .* of 'seeker' cannot be"):
        store.get_online_features(refs, [{"seeker": wrong}])


any_id = st.one_of(
    st.integers(-(2**66), 2**66),
    st.integers(2**53 - 2, 2**53 + 2).map(float),
    st.floats(),
    st.booleans(),
    st.decimals(allow_nan=True),
    st.integers(-(2**64), 2**64).map(str),
    st.sampled_from(["05", "+5", "5.0", " 5", "-0", "٥", "5_0", "", "1e3"]),
    st.text(),
    st.binary(),
    st.none(),
    st.uuids(),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.floats(width=32).map(np.float32),
)


def exact(value: Any, value_type: ValueType) -> Any:
    """The stored id that equals `value`, by Python's exact comparison; None where there is none, or it is not known."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value_type == ValueType.STRING:
        is_unicode = not any("\ud800" <= c <= "\udfff" for c in str(value))
        return str(value) if (is_whole or isinstance(value, (str, uuid.UUID))) and is_unicode else None
    number = int(value) if is_whole else None
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and abs(Decimal(float(value))) < 2**53:
        number = int(value) if Decimal(float(value)) == int(value) else None
    if isinstance(value, str) and _is_decimal(value) and str(int(Decimal(value))) == value:
        number = int(Decimal(value))
    if isinstance(value, Decimal) and value.is_finite() and value == int(value):
        number = int(value)
    bits = 63 if value_type == ValueType.INT64 else 31
    return number if number is not None and -(2**bits) <= number < 2**bits else None


def _is_decimal(text: str) -> bool:
    return bool(text) and all(c in "-0123456789" for c in text) and text.lstrip("-").isdigit() and text.count("-") < 2


@settings(max_examples=1000, deadline=None)
@given(value=any_id, value_type=st.sampled_from([ValueType.STRING, ValueType.INT64, ValueType.INT32]))
def test_any_online_id_is_exact_or_refused(value: Any, value_type: ValueType) -> None:
    wanted = exact(value, value_type)
    try:
        [found] = exact_ids("'seeker'", [value], value_type)
    except DataError as error:
        assert wanted is None, f"{value!r}: {error}"
        return
    assert found == wanted and type(found) is (str if value_type == ValueType.STRING else int)
