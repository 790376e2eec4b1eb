"""Parquet files of one path: each means in the glob what it means alone, or it is refused by name."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from girl_features.batch.worker import table_versions
from girl_features.config import TableConfig
from girl_features.errors import DataError
from girl_features.input.opening import open_sources
from girl_features.input.sources import copy_rows
from girl_features.input.staging import checked_staging_sql
from girl_features.sql import connected
from tests.input_tables import GOOD, NOW, day, load, rows_of, table_of, write_tables

REFUSED = "refused"
UUID = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
MOMENT = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)


class Kind(NamedTuple):
    """A type that a lake holds for a column, with two values of it, and what they mean."""

    values: pa.Array
    means: list[Any] | str


def _ids() -> dict[str, Kind]:
    whole = {str(kind): Kind(pa.array([5, 120], kind), ["5", "120"]) for kind in (pa.int8(), pa.uint16(), pa.int32())}
    return {
        **whole,
        "int64": Kind(pa.array([2**53 + 1, -1]), [str(2**53 + 1), "-1"]),
        "uint64": Kind(pa.array([2**64 - 1, 5], pa.uint64()), [str(2**64 - 1), "5"]),
        "text": Kind(pa.array(["5", "007"]), ["5", "007"]),
        "large text": Kind(pa.array(["5", "007"], pa.large_string()), ["5", "007"]),
        "dictionary": Kind(pa.array(["5", None]).dictionary_encode(), ["5", None]),
        "dictionary of integers": Kind(pa.array([5, None]).dictionary_encode(), ["5", None]),
        "decimal": Kind(pa.array([Decimal(5), Decimal(10**30)], pa.decimal128(38, 0)), ["5", "1" + 30 * "0"]),
        "uuid": Kind(pa.array([UUID.bytes, None], pa.uuid()), [str(UUID), None]),
        "null": Kind(pa.nulls(2), [None, None]),
        "float of nulls": Kind(pa.array([None, None], pa.float64()), [None, None]),
        "float": Kind(pa.array([5.0, 7.0]), REFUSED),
        "float32": Kind(pa.array([5.0, 7.0], pa.float32()), REFUSED),
        "decimal with places": Kind(pa.array([Decimal("5.00"), None], pa.decimal128(10, 2)), REFUSED),
        "wide decimal": Kind(pa.array([Decimal(5), None], pa.decimal256(60, 0)), REFUSED),
        "bytes": Kind(pa.array([b"5", b"7"]), REFUSED),
        "16 bytes": Kind(pa.array([UUID.bytes, None], pa.binary(16)), REFUSED),
        "bool": Kind(pa.array([True, False]), REFUSED),
        "date": Kind(pa.array([date(2020, 1, 1), None]), REFUSED),
        "list": Kind(pa.array([["5"], None]), REFUSED),
        "struct": Kind(pa.array([{"id": "5"}, None]), REFUSED),
    }


def _texts() -> dict[str, Kind]:
    return {
        "text": Kind(pa.array(["café", "b"]), ["café", "b"]),
        "large text": Kind(pa.array(["café", None], pa.large_string()), ["café", ""]),
        "dictionary": Kind(pa.array(["café", "b"]).dictionary_encode(), ["café", "b"]),
        "bytes": Kind(pa.array(["café".encode(), b"\\x41"]), ["café", "\\x41"]),
        "null": Kind(pa.nulls(2), ["", ""]),
        "float of nulls": Kind(pa.array([None, None], pa.float64()), ["", ""]),
        "integer of nulls": Kind(pa.array([None, None], pa.int32()), ["", ""]),
        "float": Kind(pa.array([1.5, None]), REFUSED),
        "integer": Kind(pa.array([1, None]), REFUSED),
        "list": Kind(pa.array([["a"], None]), REFUSED),
    }


def _times() -> dict[str, Kind]:
    moments = pa.array([MOMENT, None], pa.timestamp("us", "UTC"))
    zoned = [pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in ("UTC", "Asia/Tokyo")]
    naive = [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")]
    midnight = MOMENT.replace(hour=0, minute=0, second=0)
    return {
        **{str(kind): Kind(moments.cast(kind), [MOMENT, None]) for kind in zoned + naive},
        "date": Kind(pa.array([MOMENT.date(), None]), [midnight, None]),
        "null": Kind(pa.nulls(2), [None, None]),
        "float of nulls": Kind(pa.array([None, None], pa.float64()), [None, None]),
        "text of nulls": Kind(pa.array([None, None], pa.string()), [None, None]),
        "seconds": Kind(pa.array([1577934245, None]), REFUSED),
        "float": Kind(pa.array([1577934245.0, None]), REFUSED),
        "time of day": Kind(pa.array([time(3), None]), REFUSED),
    }


def _matched() -> dict[str, Kind]:
    return {
        "bool": Kind(pa.array([True, None]), [True, None]),
        "int8": Kind(pa.array([1, 0], pa.int8()), [True, False]),
        "int64": Kind(pa.array([0, None]), [False, None]),
        "uint8": Kind(pa.array([1, 0], pa.uint8()), [True, False]),
        "stars": Kind(pa.array([1, 5]), [True, "bad_matched"]),
        "null": Kind(pa.nulls(2), [None, None]),
        "float of nulls": Kind(pa.array([None, None], pa.float64()), [None, None]),
        "text of nulls": Kind(pa.array([None, None], pa.string()), [None, None]),
        "text": Kind(pa.array(["true", "false"]), REFUSED),
        "float": Kind(pa.array([1.0, 0.3]), REFUSED),
    }


COLUMNS = {
    ("interactions", "job_seeker_id"): _ids(),
    ("job_seekers", "job_seeker_id"): _ids(),
    ("jobs", "job_id"): _ids(),
    ("job_seekers", "cv"): _texts(),
    ("interactions", "decided_at"): _times(),
    ("interactions", "matched"): _matched(),
}
ALL = [(table, column, name) for (table, column), kinds in COLUMNS.items() for name in kinds]
LIKE_OTHERS = {"int8", "uint16", "float32", "large text", "list", "struct", "16 bytes", "timestamp[s]", "timestamp[ms]"}
PLAIN = {name: table_of(name, (rows * 2)[:2]) for name, rows in GOOD.items()}


def write(path: Path, table: str, column: str, kind: Kind, seed: int) -> None:
    """Write two rows, with the columns in some order and other columns that differ from file to file."""
    random = Random(seed)
    plain = PLAIN[table]
    data = plain.set_column(plain.column_names.index(column), column, kind.values)
    data = data.append_column("n", pa.array([str(i) if seed % 2 else i for i in range(2)]))
    if seed % 3:
        data = data.append_column(f"extra_{seed % 3}", pa.array([[1], [2]]))
    names = data.column_names
    random.shuffle(names)
    pq.write_table(data.select(names), path)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connected(threads=1) as connection:
        connection.execute("SET preserve_insertion_order = true")
        yield connection


def staged(connection: duckdb.DuckDBPyConnection, table: str, column: str, path: str) -> list[tuple[Any, ...]]:
    """Return the values of `column` of all rows, each with its flags and its file, or the reason of a bad match."""
    config = TableConfig(path=path)
    with open_sources(connection, table, config, home="memory") as sources:
        copy_rows(connection, sources, "staged", lambda source: checked_staging_sql(connection, source, config, NOW))
    is_bad = "coalesce(problem.reason = 'bad_matched', false)"
    rows = connection.execute(
        f"SELECT {column}, {is_bad}, flags, girl_source_file FROM staged ORDER BY rowid"
    ).fetchall()
    connection.execute("DROP TABLE staged")
    found = [("bad_matched" if is_bad else value, flags, Path(file).name) for value, is_bad, flags, file in rows]
    return [(v.astimezone(UTC) if isinstance(v, datetime) else v, *rest) for v, *rest in found]


@pytest.mark.parametrize(("table", "column", "name"), ALL)
def test_a_file_alone_means_what_it_says_or_is_refused_by_name(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, table: str, column: str, name: str
) -> None:
    kind, path = COLUMNS[table, column][name], tmp_path / "one.parquet"
    write(path, table, column, kind, seed=0)
    if kind.means == REFUSED:
        with pytest.raises(DataError, match=rf'table {table}: column "{column}" of .*one.parquet.* is .*wanted'):
            staged(connection, table, column, str(path))
    else:
        assert [row[0] for row in staged(connection, table, column, str(path))] == kind.means


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_file_means_in_a_glob_what_it_means_alone_or_it_is_refused(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, table: str, column: str
) -> None:
    kinds, random = COLUMNS[table, column], Random(column)
    alone: dict[str, list[tuple[Any, ...]]] = {}
    for name, kind in kinds.items():
        if kind.means != REFUSED:
            path = tmp_path / f"alone-{len(alone)}.parquet"  # DuckDB may keep the bytes of a path that is written again
            write(path, table, column, kind, seed=0)
            alone[name] = staged(connection, table, column, str(path))
    groups = [tuple(random.choices(list(kinds), k=4)) for _ in range(40)]
    if (table, column) not in (("jobs", "job_id"), ("job_seekers", "job_seeker_id")):
        groups += product([name for name in kinds if name not in LIKE_OTHERS], repeat=2)
    for number, names in enumerate(groups):
        folder = tmp_path / str(number)
        folder.mkdir()
        for i, name in enumerate(names):
            write(folder / f"part-{i}.parquet", table, column, kinds[name], seed=number + i)
        if all(name in alone for name in names):
            wanted = [(*row[:2], f"part-{i}.parquet") for i, name in enumerate(names) for row in alone[name]]
            assert staged(connection, table, column, f"{folder}/*") == wanted, names
        else:
            with pytest.raises(DataError, match=rf'table {table}: column "{column}" .*, wanted '):
                staged(connection, table, column, f"{folder}/*")


def two_files(tmp_path: Path, table: str, first: pa.Table, second: pa.Table) -> TableConfig:
    (tmp_path / "parts").mkdir()
    for name, data in (("a", first), ("b", second)):
        pq.write_table(data, tmp_path / "parts" / f"{name}.parquet")
    return TableConfig(path=str(tmp_path / "parts" / "*.parquet"))


def with_column(table: str, column: str, values: pa.Array) -> pa.Table:
    return PLAIN[table].set_column(PLAIN[table].column_names.index(column), column, values)


REFUSALS = [
    ("jobs", "job_id", pa.array(["1", "2"]), pa.array([1.0, 2.0]), ["VARCHAR in", "DOUBLE in"]),
    ("jobs", "jd", pa.array([1.5, 2.5]), pa.array(["jd", "jd"]), ["DOUBLE in", "VARCHAR in"]),
    ("interactions", "matched", pa.array([True, False]), pa.array([0, 5]), ["BOOLEAN in", "BIGINT in", "'5' in row 2"]),
]


@pytest.mark.parametrize(("table", "column", "first", "second", "words"), REFUSALS)
def test_a_disagreement_names_the_table_the_column_both_files_and_both_types(
    tmp_path: Path, table: str, column: str, first: pa.Array, second: pa.Array, words: list[str]
) -> None:
    path = two_files(tmp_path, table, with_column(table, column, first), with_column(table, column, second))
    with pytest.raises(DataError) as caught:
        load(write_tables(tmp_path).model_copy(update={table: path}))
    for word in (f"table {table}", column, "a.parquet", "b.parquet", *words):
        assert word in str(caught.value)


def test_ids_of_every_exact_type_join_across_tables_and_files(tmp_path: Path) -> None:
    kinds = [pa.string(), pa.int64(), pa.uint8(), pa.decimal128(20, 0), pa.large_string()]
    for i, kind in enumerate(kinds):
        for table, column, n in (("job_seekers", "job_seeker_id", 0), ("interactions", "job_seeker_id", 2)):
            rows = {
                "job_seekers": [(str(i), "cv", day(0))],
                "interactions": [(str((i + n) % len(kinds)), "j1", True, day(5 + i))],
            }[table]
            data = table_of(table, rows)
            values = pa.array([int(rows[0][0])]).cast(kind)
            data = data.set_column(data.column_names.index(column), column, values)
            pq.write_table(data, tmp_path / f"part-{table}-{i}.parquet")
    parts = {name: TableConfig(path=str(tmp_path / f"part-{name}-*")) for name in ("job_seekers", "interactions")}
    with load(write_tables(tmp_path).model_copy(update=parts), strict=True) as tables:
        assert [row[0] for row in rows_of(tables, "job_seekers")] == [str(i) for i in range(len(kinds))]
        assert tables.report.tables["interactions"].n_kept == len(kinds)


def test_zoned_and_naive_files_are_both_right_and_the_naive_rows_noted(tmp_path: Path) -> None:
    tokyo = pa.array([day(0), day(1)], pa.timestamp("us", "UTC")).cast(pa.timestamp("ns", "Asia/Tokyo"))
    naive = pa.array([datetime(2020, 1, 3), datetime(2020, 1, 4)])
    first, second = (with_column("job_seekers", "updated_at", values) for values in (tokyo, naive))
    path = two_files(tmp_path, "job_seekers", first, second)
    with load(write_tables(tmp_path).model_copy(update={"job_seekers": path}), strict=True) as tables:
        assert sorted(row[2] for row in rows_of(tables, "job_seekers")) == [day(0), day(1), day(2), day(3)]
        notes = {note.code: note.n_rows for note in tables.report.notes}
        assert notes == {"naive_timestamps": 2, "nanoseconds": 2}


def test_rows_are_numbered_within_their_file(tmp_path: Path) -> None:
    ids = [pa.array(["s1", "s1"]), pa.array([None, 7])]
    path = two_files(tmp_path, "job_seekers", *(with_column("job_seekers", "job_seeker_id", values) for values in ids))
    with load(write_tables(tmp_path).model_copy(update={"job_seekers": path})) as tables:
        (rejection,) = (r for r in tables.report.rejections if r.table == "job_seekers")
        assert (Path(rejection.file or "").name, rejection.row, rejection.reason) == ("b.parquet", 1, "null_id")


def test_a_first_file_without_rows_has_no_say(tmp_path: Path) -> None:
    empty = with_column("jobs", "job_id", pa.array([1.5, 2.5]))[:0]
    path = two_files(tmp_path, "jobs", empty, PLAIN["jobs"])
    with load(write_tables(tmp_path).model_copy(update={"jobs": path}), strict=True) as tables:
        assert tables.report.tables["jobs"].n_kept == 2


def test_a_column_that_one_file_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    path = two_files(tmp_path, "jobs", PLAIN["jobs"], PLAIN["jobs"].rename_columns(["job_id", "JD", "posted_at"]))
    with pytest.raises(DataError, match=r"table jobs: .*b.parquet' has no column 'jd'.*found job_id, JD, posted_at"):
        load(write_tables(tmp_path).model_copy(update={"jobs": path}))


def test_the_worker_reads_a_seeker_from_files_of_several_types(tmp_path: Path) -> None:
    first = with_column("job_seekers", "job_seeker_id", pa.array([5, 6]))
    second = table_of("job_seekers", [("5", "newer", day(20)), ("x", "other", day(20))])
    versions = table_versions(two_files(tmp_path, "job_seekers", first, second), 10, ["5"])
    assert [(v.job_seeker_id, v.cv) for v in versions] == [("5", "welder"), ("5", "newer")]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_column_with_our_own_name_is_refused(tmp_path: Path, suffix: str) -> None:
    jobs = PLAIN["jobs"].append_column("girl_source_file", pa.array(["x", "y"]))
    pq.write_table(jobs, tmp_path / "theirs.parquet")
    duckdb.execute(f"COPY (FROM '{tmp_path}/theirs.parquet') TO '{tmp_path}/theirs.csv'")
    path = f"{tmp_path}/theirs.{suffix}"
    for source in (TableConfig(path=path), TableConfig(query=f"SELECT * FROM '{path}'")):
        with pytest.raises(DataError, match="has a column 'girl_source_file', a name that we use; rename it"):
            load(write_tables(tmp_path).model_copy(update={"jobs": source}))


ADVISED = [
    (pa.array([5.0, 2.0**52 + 1]), ["5", str(2**52 + 1)]),
    (pa.array([5.0, None], pa.float32()), ["5", None]),
    (pa.array([Decimal("5.00"), Decimal("1e20")], pa.decimal128(38, 10)), ["5", "1" + 20 * "0"]),
    (pa.array(["é".encode(), b"5"]), ["é", "5"]),
]


@pytest.mark.parametrize(("values", "ids"), ADVISED)
def test_the_query_advised_for_ids_gives_the_right_rows(tmp_path: Path, values: pa.Array, ids: list[str]) -> None:
    config = write_tables(tmp_path, {"jobs": with_column("jobs", "job_id", values), "interactions": []})
    with pytest.raises(
        DataError, match=r"table jobs: column \"job_id\" .* wanted text or integers for job_id"
    ) as caught:
        load(config)
    query = yaml.safe_load(str(caught.value).partition("query: ")[2])
    with load(config.model_copy(update={"jobs": TableConfig(query=query)})) as tables:
        assert {row[0] for row in rows_of(tables, "jobs")} == {name for name in ids if name}


def named(names: list[str]) -> pa.Table:
    """Return two jobs with columns of these names, in which every name but ours holds numbers."""
    jobs = table_of("jobs", GOOD["jobs"])
    kept = {name.lower(): jobs[name] for name in jobs.column_names}
    return pa.table([kept.get(name.lower(), pa.array([1, 2])) for name in names], names=names)


ALIKE = {
    "more than once": ["job_id", "jd", "jd", "posted_at"],
    "'JD' and 'jd', which differ only": ["JD", "job_id", "jd", "posted_at"],
    "'posted_at' and 'POSTED_AT', which": ["jd", "job_id", "posted_at", "POSTED_AT"],
}


@pytest.mark.parametrize("message", ALIKE)
def test_columns_that_duckdb_cannot_tell_apart_are_refused_by_name(tmp_path: Path, message: str) -> None:
    config = write_tables(tmp_path, {"interactions": []})
    pq.write_table(named(ALIKE[message]), tmp_path / "alike.parquet")
    with pytest.raises(DataError, match=f"table jobs: .*alike.parquet.* has the columns? {message}|{message}"):
        load(config.model_copy(update={"jobs": TableConfig(path=str(tmp_path / "alike.parquet"))}))
    query = "SELECT " + ", ".join(f"1 AS {name}" for name in ALIKE[message])
    with pytest.raises(DataError, match=f"table jobs: the query has the columns? .*{message}|{message}"):
        load(config.model_copy(update={"jobs": TableConfig(query=query)}))


@pytest.mark.parametrize("others", [["x", "X", "x"], ["x", "X", "x_1"], ["É", "é", "x"]])
def test_other_columns_that_are_alike_do_not_matter(tmp_path: Path, others: list[str]) -> None:
    config = write_tables(tmp_path, {"interactions": []})
    data = named([*others[:2], "job_id", "jd", "posted_at"]).append_column(others[2], pa.array(["a", "b"]))
    nested = pa.array([{"jd": "x", "more": [{"job_id": 1}]}] * 2)
    pq.write_table(data.add_column(1, "nested", nested), tmp_path / "alike.parquet")
    table = TableConfig(path=str(tmp_path / "alike.parquet"))
    with load(config.model_copy(update={"jobs": table}), strict=True) as tables:
        assert [row[:2] for row in rows_of(tables, "jobs")] == [row[:2] for row in GOOD["jobs"]]
    if others[2] == "x_1":
        mapped = table.model_copy(update={"columns": {"jd": "x_1"}})
        with load(config.model_copy(update={"jobs": mapped}), strict=True) as tables:
            assert [row[1] for row in rows_of(tables, "jobs")] == ["a", "b"]
