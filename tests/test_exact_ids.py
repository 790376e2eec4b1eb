"""Ids of every pair of types, in entity rows and in the store: they are compared exactly, or refused by name."""

from __future__ import annotations

import itertools
import random
import re
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from girl_features.errors import DataError, StoreError
from girl_features.sql import connected
from girl_features.store.feast_sources import SourceColumns
from girl_features.store.offline.entity_rows import entity_table
from girl_features.store.offline.history import ViewSource, join_view
from girl_features.store.parts.latest import read_rows, rows_between
from girl_features.store.parts.tombstones import Tombstones

AT = datetime(2024, 6, 1, tzinfo=UTC)
DAY_BEFORE = datetime(2024, 5, 31, tzinfo=UTC)
Ids = Sequence[int | None]
DATABASE = duckdb.connect(config={"threads": 1})  # one for all tests, as opening one takes longer

# small ids, and those around the places where floats and integers of some width end
EDGES = [0, 7, 10, 127, 128, 255, 256, 32767, 65536, 2**24 - 1, 2**24, 2**24 + 1, 2**31, 2**32, 2**53 - 1, 2**53]
EDGES += [
    2**53 + 1,
    2**53 + 2,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
    -7,
    -128,
    -(2**24) - 1,
    -(2**53),
    -(2**53) - 1,
    -(2**63),
]
NUMBERS = itertools.count()


def uuid_of(i: int) -> uuid.UUID:
    return uuid.UUID(int=i % 2**128)


def series(make: Callable[[int], Any], dtype: Any, fits: Callable[[int], bool] = lambda i: True) -> Any:
    """Return a function that writes ids as a pandas column of `dtype`, without those that it cannot hold."""
    return lambda ids: pd.Series([None if i is None else make(i) for i in ids if i is None or fits(i)], dtype=dtype)


def within(bits: int, signed: bool) -> Callable[[int], bool]:
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    return lambda i: low <= i < high


def present(make: Callable[[Ids], pd.Series]) -> Callable[[Ids], pd.Series]:
    """The same without missing ids, for types that have none."""
    return lambda ids: make([i for i in ids if i is not None])


int64, uint64 = within(64, True), within(64, False)
ENTITY: dict[str, tuple[str, Callable[[Ids], pd.Series]]] = {
    **{
        f"{'' if signed else 'u'}int{bits}": (
            "number",
            present(series(int, f"{'' if signed else 'u'}int{bits}", within(bits, signed))),
        )
        for bits in (8, 16, 32, 64)
        for signed in (True, False)
    },
    "Int64": ("number", series(int, "Int64", int64)),
    "UInt64": ("number", series(int, "UInt64", uint64)),
    "float64": ("number", series(float, "float64")),
    "float32": ("number", series(np.float32, "float32")),
    "Float64": ("number", series(float, "Float64")),
    "int64[pyarrow]": ("number", series(int, "int64[pyarrow]", int64)),
    "double[pyarrow]": ("number", series(float, "double[pyarrow]")),
    "decimal[pyarrow]": ("number", series(Decimal, pd.ArrowDtype(pa.decimal128(30, 2)))),
    "object ints": ("number", series(int, object, int64)),
    "object numpy": ("number", series(np.int64, object, int64)),
    "object decimals": ("number", series(lambda i: Decimal(f"{i}.00"), object)),
    "category of ints": ("number", lambda ids: series(int, "Int64", int64)(ids).astype("category")),
    "object text": ("text", series(str, object)),
    "string": ("text", series(str, "string")),
    "string[pyarrow]": ("text", series(str, "string[pyarrow]")),
    "large_string[pyarrow]": ("text", series(str, pd.ArrowDtype(pa.large_string()))),
    "category of text": ("text", lambda ids: series(str, object)(ids).astype("category")),
    "object bytes": ("bytes", series(lambda i: str(i).encode(), object)),
    "binary[pyarrow]": ("bytes", series(lambda i: str(i).encode(), pd.ArrowDtype(pa.binary()))),
    "object UUIDs": ("uuid", series(uuid_of, object)),
    "bool": ("bool", present(series(bool, "bool"))),
    "dates": ("date", series(lambda i: date.fromordinal(700_000 + abs(i) % 99), object)),
}
STORED: dict[str, tuple[str, pa.DataType, Callable[[int], Any], Callable[[int], bool]]] = {
    **{
        str(kind): ("number", kind, int, within(kind.bit_width, str(kind)[0] == "i"))
        for kind in (pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint64())
    },
    "float": ("number", pa.float32(), lambda i: float(np.float32(i)), lambda i: True),
    "double": ("number", pa.float64(), float, lambda i: True),
    "decimal(38,0)": ("number", pa.decimal128(38, 0), Decimal, lambda i: True),
    "decimal(20,2)": ("number", pa.decimal128(20, 2), Decimal, lambda i: abs(i) < 10**18),
    "string": ("text", pa.string(), str, lambda i: True),
    "large_string": ("text", pa.large_string(), str, lambda i: True),
    "dictionary": ("text", pa.dictionary(pa.int32(), pa.string()), str, lambda i: True),
    "binary": ("bytes", pa.binary(), lambda i: str(i).encode(), lambda i: True),
    "uuid": ("uuid", pa.uuid(), uuid_of, lambda i: True),
    "bool": ("bool", pa.bool_(), bool, lambda i: True),
}


def id_sets(seed: str) -> tuple[list[int | None], list[int]]:
    """Return ids of entity rows, at times with missing ones, and stored ids. Half of the sets have small ids only."""
    rng = random.Random(seed)
    pool = [i for i in EDGES if abs(i) < 2**24] if rng.random() < 0.5 else EDGES
    asked: list[int | None] = [*rng.sample(pool, rng.randint(1, 8))]
    if rng.random() < 0.5:
        asked.insert(rng.randint(0, len(asked)), None)
    return asked, rng.sample(pool, rng.randint(1, len(pool)))


def stored_file(folder: Path, name: str, ids: Sequence[int]) -> list[Any]:
    """Write one row for each distinct id, whose feature is its place, and return the ids as Python values."""
    _, kind, make, fits = STORED[name]
    values = list(dict.fromkeys(make(i) for i in ids if fits(i))) or [make(7)]
    column = pa.array(values, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else None
    if column is None:
        plain = [value.bytes for value in values] if kind == pa.uuid() else values
        column = pa.array(plain, kind)
    times = pa.array([DAY_BEFORE] * len(values), pa.timestamp("us", "UTC"))
    for old in folder.glob("*.parquet"):
        old.unlink()
    table = pa.table({"id": column, "at": times, "place": range(len(values))})
    pq.write_table(table, folder / f"{next(NUMBERS)}.parquet")  # DuckDB keeps what it read under a name
    return values


def joined(folder: Path, entity_df: pd.DataFrame, feature: str = "place") -> list[Any]:
    view = ViewSource(
        folder, {"id": "seeker"}, "at", None, {feature: feature}, {"id": None, feature: None}, "facts", None
    )
    entities, time = entity_table(entity_df, {"seeker"})
    files = sorted(folder.glob("*.parquet"))
    with DATABASE.cursor() as connection:  # its temporary tables are its own
        return join_view(connection, entities, time, view, files, created_cutoff=False)[feature].to_pylist()


def entity_rows(ids: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"seeker": ids, "event_timestamp": pd.Timestamp(AT)})


def python_values(column: pd.Series) -> list[Any]:
    """The ids as Python compares them exactly: 5 == 5.0 == Decimal(5), but 5 != '5'."""
    values = [None if pd.isna(value) else value for value in column.astype(object)]
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def must_be_refused(kind: str, ids: list[Any], stored: str) -> bool:
    known = [value for value in ids if value is not None]
    stored_kind, stored_type = STORED[stored][:2]
    if not known:
        return False
    if kind != stored_kind:
        return True
    bits = {pa.float32(): 24, pa.float64(): 53}.get(stored_type)
    return bits is not None and any(abs(value) >= 2**bits for value in known)


@pytest.mark.parametrize("entity", ENTITY)
def test_every_pair_of_types_is_compared_exactly_or_refused(tmp_path: Path, entity: str) -> None:
    """48 pairs of an id set and a stored type for each of 30 types of entity rows: 1,440 in all."""
    kind, make = ENTITY[entity]
    float_bits = {"float64": 53, "Float64": 53, "double[pyarrow]": 53, "float32": 24}.get(entity)
    n_equal = 0
    for stored in STORED:
        for n in range(3):
            asked, known = id_sets(f"{entity} {stored} {n}")
            column = make(asked)
            values, stored_values = python_values(column), stored_file(tmp_path, stored, known)
            case = f"{entity} {values} in {stored} {stored_values}"
            may_be_refused = stored.startswith("decimal(20") or (
                entity.endswith("decimals") or entity.startswith("decimal")
            )
            is_collapsed = float_bits and any(value is not None and abs(value) >= 2**float_bits for value in values)
            try:
                found = joined(tmp_path, entity_rows(column))
            except DataError as error:
                assert must_be_refused(kind, values, stored) or is_collapsed or may_be_refused, f"{case}: {error}"
                assert "'seeker'" in str(error), "names the column"
                assert "entity rows is " in str(error) or "one type" in str(error), "names the type"
                continue
            assert not must_be_refused(kind, values, stored) and not is_collapsed, case
            expected = [
                next((i for i, other in enumerate(stored_values) if value is not None and other == value), None)
                for value in values
            ]
            assert found == expected, case
            n_equal += sum(place is not None for place in found)
    assert n_equal or kind == "date", "some ids were found"


def test_the_pairs_are_at_least_a_thousand() -> None:
    assert len(ENTITY) * len(STORED) * 3 >= 1000


ADVISED = {  # entity rows, stored, and the ids asked for
    "int64 for string": (pd.Series([7, 10]), "string"),
    "Int64 with a gap for string": (pd.Series([7, None], dtype="Int64"), "string"),
    "float64 for string": (pd.Series([7, None], dtype="float64"), "string"),
    "decimals for string": (pd.Series([Decimal("7.00"), Decimal("10.00")]), "string"),
    "Arrow decimals for string": (pd.Series([Decimal(7), None], dtype=pd.ArrowDtype(pa.decimal128(9, 2))), "string"),
    "category for string": (pd.Series([7, 10]).astype("category"), "string"),
    "bytes for string": (pd.Series([b"7", None]), "string"),
    "Arrow bytes for string": (pd.Series([b"7", None], dtype=pd.ArrowDtype(pa.binary())), "string"),
    "text for int64": (pd.Series(["7", None]), "int64"),
    "category for int64": (pd.Series(["7", None]).astype("category"), "int64"),
    "long text for int64": (pd.Series([str(2**53 + 1), None]), "int64"),
    "text for binary": (pd.Series(["7", None], dtype="string"), "binary"),
    "text for uuid": (pd.Series([str(uuid_of(7)), None]), "uuid"),
}


@pytest.mark.parametrize("case", ADVISED)
def test_the_advice_of_a_refusal_gives_the_right_rows(tmp_path: Path, case: str) -> None:
    column, stored = ADVISED[case]
    values = stored_file(tmp_path, stored, [128, 7, 2**53 + 1, 10, 2**53])
    entity_df = entity_rows(column)
    with pytest.raises(DataError, match="different kinds") as refused:
        joined(tmp_path, entity_df)
    [code] = re.findall(r"`(.+)`", str(refused.value))
    entity_df["seeker"] = eval(code, {"entity_df": entity_df, "uuid": uuid})
    wanted = [None if value is pd.NA or value is None else values.index(value) for value in entity_df["seeker"]]
    assert joined(tmp_path, entity_df) == wanted and wanted[0] is not None


def test_uuids_for_text(tmp_path: Path) -> None:
    table = pa.table({"id": [str(uuid_of(7))], "at": pa.array([DAY_BEFORE], pa.timestamp("us", "UTC")), "place": [0]})
    pq.write_table(table, tmp_path / "0.parquet")
    entity_df = entity_rows(pd.Series([uuid_of(7), None]))
    with pytest.raises(DataError, match=r"\.astype\(\"string\"\)"):
        joined(tmp_path, entity_df)
    assert joined(tmp_path, entity_df.assign(seeker=entity_df["seeker"].astype("string"))) == [0, None]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([5, "5"], "int, str"),
        ([b"5", "5"], "bytes, str"),
        ([5, 5.0], "float, int"),
        ([True, 5], "bool, int"),
        ([2**53 + 1, 1.5], "float, int"),
        ([[5]], "list"),
        ([2**65], "too large"),
        ([2**53 + 0.0], "row 0 holds 9007199254740992.0"),
        ([float("inf")], "row 0 holds inf"),
        ([None, 5.5], "row 1 holds 5.5"),
    ],
)
def test_ids_that_mean_nothing_are_refused_by_name(tmp_path: Path, values: list[Any], named: str) -> None:
    stored_file(tmp_path, "int64", [5, 2**53])
    with pytest.raises(DataError, match=named) as refused:
        joined(tmp_path, entity_rows(pd.Series(values, dtype=object)))
    assert "'seeker'" in str(refused.value)


def test_files_that_disagree_about_ids_are_refused_and_widths_are_not(tmp_path: Path) -> None:
    def write(name: str, ids: Any, value: int) -> None:
        time = pa.array([DAY_BEFORE], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"id": ids, "at": time, "place": [value]}), tmp_path / name)

    write("0.parquet", pa.array([7], pa.int32()), 1)
    write("1.parquet", pa.array([2**40], pa.int64()), 2)
    write("2.parquet", pa.nulls(1), 3)
    assert joined(tmp_path, entity_rows(pd.Series([2**40, 7, 9]))) == [2, 1, None]
    write("3.parquet", pa.array([7.0]), 4)
    with pytest.raises(StoreError, match=r"0\.parquet, but double in .*3\.parquet"):
        joined(tmp_path, entity_rows(pd.Series([7])))


@pytest.mark.parametrize(
    "name", ["row", "place", "known_at", "created", "k0", "e0", "at", "f0", "file", "part", "pick"]
)
def test_a_feature_may_have_any_name_that_the_join_uses(tmp_path: Path, name: str) -> None:
    time = pa.array([DAY_BEFORE, DAY_BEFORE], pa.timestamp("us", "UTC"))
    for i, feature in enumerate(([10, 20], [[1.0], [2.0]], ["a", "b"])):
        path = tmp_path / f"{i}.parquet"
        column = pa.array(feature, pa.list_(pa.float32())) if isinstance(feature[0], list) else pa.array(feature)
        pq.write_table(pa.table({"id": [1, 2], "time": time, name: column}), path)
        view = ViewSource(tmp_path, {"id": "seeker"}, "time", None, {name: name}, {"id": None, name: None}, "v", None)
        entities, at = entity_table(entity_rows(pd.Series([2, 1, 3])), {"seeker"})
        with DATABASE.cursor() as connection:
            found = join_view(connection, entities, at, view, [path], created_cutoff=False)
        assert found[name].to_pylist() == [feature[1], feature[0], None]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Score", "score"), "'Score' and 'score'"),
        (("file_index", "score"), "file_index"),
        (("file_row_number", "score"), "file_row_number"),
        (("File_Index", "score"), "File_Index"),
        (("other", "another"), "has a column 'score'"),
    ],
)
def test_columns_that_duckdb_would_mix_up_are_refused(tmp_path: Path, names: tuple[str, str], said: str) -> None:
    time = pa.array([DAY_BEFORE], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"id": [7], "at": time, names[0]: [1], names[1]: [2]}), tmp_path / "0.parquet")
    with pytest.raises(StoreError, match=said):
        joined(tmp_path, entity_rows(pd.Series([7])), "score")


@pytest.mark.parametrize("name", ["file_index", "File_Row_Number", "Score"])
@pytest.mark.parametrize("role", ["key", "feature", "neither"])
def test_the_newest_rows_refuse_names_that_duckdb_would_mix_up(tmp_path: Path, name: str, role: str) -> None:
    key, feature = name if role == "key" else "id", name if role == "feature" else "score"
    time = pa.array([DAY_BEFORE], pa.timestamp("us", "UTC"))
    names = dict.fromkeys([key, "at", feature, name, "score"])
    pq.write_table(pa.table({column: time if column == "at" else [1] for column in names}), tmp_path / "0.parquet")
    columns = SourceColumns([key], [feature], "at", None)
    with connected() as connection, pytest.raises(StoreError, match=f"{name}.*; rename"):
        read_rows(
            connection,
            [tmp_path / "0.parquet"],
            rows_between(columns, None, None, latest=True),
            Tombstones.of(tmp_path),
            10,
        )
