"""`girl join` and `join_frame` over tables of many types and names: same features, and own columns as they were."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.errors import ConfigError, DataError, GirlError, ShapeError
from girl_features.init_repo import write_repo
from girl_features.integrations.join_table import JoinSummary, join_frame, join_table
from girl_features.integrations.pair_files import read_pairs, write_pairs
from girl_features.integrations.pair_keys import PairFormat, pair_keys
from girl_features.integrations.pair_words import words_of_function
from girl_features.integrations.plain_columns import spread_columns
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo
from tests.fakes import feature_contract
from tests.store_rows import Row, write_rows

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
KNOWN_AT = datetime(2021, 12, 31, tzinfo=UTC)
DECIDED_AT = datetime(2022, 3, 4, tzinfo=UTC)
CONTRACT = feature_contract(trained_until=LONG_AGO.isoformat(), dimension=3)
N = 70
KEYS = {"job_seeker_id": "user", "job_id": "vacancy", "decided_at": "day"}


class Market(NamedTuple):
    repo: Path
    reduction: Path
    config: str

    def arguments(self) -> dict[str, Any]:
        return {"repo": self.repo, "contract": CONTRACT, "reduction": self.reduction}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """Seekers 0 to 69 with a CV and a generated JD, jobs 0 to 69, and a projection fitted on them."""
    folder = tmp_path_factory.mktemp("join")
    tables = {name: {"path": f"{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")}
    tables["interactions"] |= {"columns": KEYS | {"matched": "stars"}}  # type: ignore[dict-item]
    (folder / "girl.yaml").write_text(yaml.safe_dump({"workspace": ".", "tables": tables, "feast": {"repo": "repo"}}))
    store = PartsStore(folder / "store")
    store.save_contract(CONTRACT)
    vectors = np.random.default_rng(0).normal(size=(3, N, 3)).astype(np.float32).tolist()
    parts = [[Row(str(i), KNOWN_AT, KNOWN_AT, part[i]) for i in range(N)] for part in vectors]
    write_rows(store, CONTRACT, *parts)
    write_repo(folder / "repo", store.root, "girl")
    apply_repo(folder / "repo")
    market = Market(folder / "repo", folder / "reduction", str(folder / "girl.yaml"))
    frame, summary = join_frame(plain_pairs(N), **market.arguments(), fit=True)
    assert summary.n_with_generated_jd == N and frame["girl_tier"].to_list() == [0] * N
    return market


def plain_pairs(n: int = 5) -> pl.DataFrame:
    ids = [str(i) for i in range(n)]
    times = pl.Series([DECIDED_AT] * n, dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"job_seeker_id": ids, "job_id": ids[::-1], "decided_at": times})


def girl_columns(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col("^girl_(cos|generated|has|tier).*$"))


def expected(market: Market, n: int = 5) -> pl.DataFrame:
    return girl_columns(join_frame(plain_pairs(n), **market.arguments())[0])


def as_polars(frame: pd.DataFrame) -> pl.DataFrame:
    return girl_columns(pl.from_pandas(frame[[name for name in frame.columns if str(name).startswith("girl_")]]))


MIDNIGHT = [DECIDED_AT] * 5
IDS: dict[str, Callable[[list[int]], Any]] = {
    "text": lambda ids: pa.array(map(str, ids)),
    "large text": lambda ids: pa.array(map(str, ids), pa.large_string()),
    "categories": lambda ids: pa.array(map(str, ids)).dictionary_encode(),
    "int64": lambda ids: pa.array(ids, pa.int64()),
    "uint8": lambda ids: pa.array(ids, pa.uint8()),
    "float64, as pandas makes it of ints with a gap": lambda ids: pa.array(map(float, ids)),
    "decimals": lambda ids: pa.array(ids, pa.int64()).cast(pa.decimal128(21, 2)),
    "categories of ints": lambda ids: pa.array(ids).dictionary_encode(),
}
TIMES: dict[str, tuple[Any, str | None]] = {
    "UTC": (pa.array(MIDNIGHT, pa.timestamp("us", "UTC")), None),
    "Tokyo": (pa.array(MIDNIGHT, pa.timestamp("us", "Asia/Tokyo")), None),
    "ns UTC": (pa.array(MIDNIGHT, pa.timestamp("ns", "UTC")), "finer than microseconds"),
    "naive us": (pa.array([day.replace(tzinfo=None) for day in MIDNIGHT], pa.timestamp("us")), "read as UTC"),
    "naive ns": (pa.array([day.replace(tzinfo=None) for day in MIDNIGHT], pa.timestamp("ns")), "read as UTC"),
    "naive s": (pa.array([day.replace(tzinfo=None) for day in MIDNIGHT], pa.timestamp("s")), "read as UTC"),
    "naive ms": (pa.array([day.replace(tzinfo=None) for day in MIDNIGHT], pa.timestamp("ms")), "read as UTC"),
    "date32": (pa.array([day.date() for day in MIDNIGHT]), "read as UTC"),
    "date64": (pa.array([day.date() for day in MIDNIGHT], pa.date64()), "read as UTC"),
    "text": (pa.array(["2022-03-04 00:00:00"] * 5), "read as UTC"),
    "text with a zone": (pa.array(["2022-03-04T09:00:00+09:00"] * 5), None),
    "text of dates": (pa.array(["2022-03-04"] * 5), "read as UTC"),
    "categories of text": (pa.array(["2022-03-04"] * 5).dictionary_encode(), "read as UTC"),
}


def pairs_table(ids: str = "text", times: str = "UTC") -> pa.Table:
    own = {"job_seeker_id": IDS[ids](list(range(5))), "job_id": IDS[ids](list(range(5))[::-1])}
    return pa.table(own | {"decided_at": TIMES[times][0]})


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("form", ["parquet", "polars", "pandas"])
def test_ids_of_any_type_get_their_features(market: Market, tmp_path: Path, ids: str, form: str) -> None:
    found, _ = in_form(market, tmp_path, pairs_table(ids=ids), form)
    assert found.equals(expected(market))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("form", ["parquet", "polars", "pandas"])
def test_times_of_any_type_are_read_as_in_the_input_tables(
    market: Market, tmp_path: Path, times: str, form: str
) -> None:
    found, summary = in_form(market, tmp_path, pairs_table(times=times), form)
    assert found.equals(expected(market))
    note = TIMES[times][1]
    if form == "parquet":
        assert (note is None and not summary.notes) or any(note in said for said in summary.notes), summary.notes


def in_form(market: Market, folder: Path, table: pa.Table, form: str) -> tuple[pl.DataFrame, JoinSummary]:
    if form == "pandas":
        joined, summary = join_frame(table.to_pandas(), **market.arguments())
        return as_polars(joined), summary
    if form == "polars":
        frame, summary = join_frame(pl.DataFrame(table), **market.arguments())
        return girl_columns(frame), summary
    pq.write_table(table, folder / "pairs.parquet")
    summary = join_table(folder / "pairs.parquet", folder / "out.parquet", **market.arguments())
    return girl_columns(pl.read_parquet(folder / "out.parquet")), summary


def test_a_parquet_tables_own_columns_come_out_as_they_were(market: Market, tmp_path: Path) -> None:
    own = {
        "girl_row": [1, 2, 3, 4, 5],
        "GIRL_TIER": ["a"] * 5,
        "features": pa.array([[1.5]] * 5, pa.list_(pa.float32(), 1)),
        "row": pa.array(["x"] * 5).dictionary_encode(),
        "at": pa.array([b"\xff"] * 5),
        "Job_ID": pa.array([1] * 5, pa.decimal128(30, 3)),
        "nested": [{"a": [1]}] * 5,
        "span": pa.array([5] * 5, pa.duration("ns")),
        "clock": pa.array([5] * 5, pa.time64("us")),
        "nothing": pa.nulls(5),
        "map": pa.array([[("k", 1)]] * 5, pa.map_(pa.string(), pa.int8())),
        "naïve 名": pa.array([0] * 5, pa.timestamp("ns", "Asia/Tokyo")),
        "girl_source_file": ["mine"] * 5,
    }
    table = pa.table(own).append_column("extra", pa.array([1] * 5))
    for name, column in zip(pairs_table().column_names, pairs_table().columns, strict=True):
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "pairs.parquet")
    table = pq.read_table(tmp_path / "pairs.parquet")
    join_table(tmp_path / "pairs.parquet", tmp_path / "out.pq", **market.arguments())
    out = pq.read_table(tmp_path / "out.pq")
    assert out.column_names[: table.num_columns] == table.column_names
    assert out.select(range(table.num_columns)).equals(table)
    added = pl.DataFrame(out.select(range(table.num_columns, out.num_columns)))
    assert added.equals(expected(market))


def test_a_frames_own_columns_and_index_come_out_as_they_were(market: Market) -> None:
    frame = pairs_table().to_pandas().set_index(pd.Index([3, 3, 1, 9, 0], name="n"))
    frame["girl_row"], frame["girl"], frame[7] = [1, None, 3, 4, 5], pd.array([1, None, 3, 4, 5], "Int8"), "x"
    frame["both"] = [1, "a", None, [], 2.5]
    frame.insert(0, "kind", pd.Categorical(["a", "b", "a", "b", "a"]))
    before = frame.copy(deep=True)
    joined, _ = join_frame(frame, **market.arguments())
    pd.testing.assert_frame_equal(joined[list(before.columns)], before)
    pd.testing.assert_frame_equal(frame, before)
    assert list(joined.columns[: len(before.columns)]) == list(before.columns)
    assert as_polars(joined.reset_index(drop=True)).equals(expected(market))
    assert joined["girl_tier"].dtype == "Int8" and joined["girl_has_generated_jd"].dtype == "boolean"
    polars = plain_pairs().with_columns(girl_row=pl.int_range(5), o=pl.Series([object()] * 5, dtype=pl.Object))
    kept, _ = join_frame(polars, **market.arguments())
    assert kept.columns[:5] == polars.columns and kept.schema["o"] == pl.Object


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".CSV"])
def test_csv_in_and_out(market: Market, tmp_path: Path, ending: str) -> None:
    tab = "\t" if "tsv" in ending else ","
    rows = [["job_seeker_id", "price", "job_id", "decided_at", "girl_row"]]
    rows += [[str(i), f"0{i}.50", str(4 - i), "2022-03-04", f'"says ""{i}"""'] for i in range(5)]
    text = "\n".join(tab.join(row) for row in rows) + "\n"
    path, out = tmp_path / f"pairs{ending}", tmp_path / f"out{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    quoted = PairFormat(quoting="csv")
    summary = join_table(path, out, **market.arguments(), pair_format=quoted)
    raw = gzip.decompress(out.read_bytes()) if ending.endswith("gz") else out.read_bytes()
    back = pl.read_csv(raw, separator=tab, infer_schema=False)
    assert back.columns[:5] == rows[0]
    assert back["price"].to_list() == [f"0{i}.50" for i in range(5)]
    assert back["girl_row"].to_list() == [f'says "{i}"' for i in range(5)]
    numbers = back.select(pl.col("^girl_(cos|gen).*$").cast(pl.Float64))
    assert numbers.equals(expected(market).select(numbers.columns))
    assert any("read as UTC (5 rows)" in note for note in summary.notes)
    join_table(path, tmp_path / "out.parquet", **market.arguments(), pair_format=quoted)
    parquet = pl.read_parquet(tmp_path / "out.parquet")
    assert parquet["price"].dtype == pl.String and girl_columns(parquet).equals(expected(market))


@pytest.mark.parametrize("form", ["parquet", "polars", "pandas", "csv"])
def test_rows_without_an_id_or_a_time_are_kept_and_counted(market: Market, tmp_path: Path, form: str) -> None:
    table = pa.table(
        {
            "job_seeker_id": pa.array(["0", None, "2", "  ", "nobody", "1"]),
            "job_id": pa.array(["4", "3", None, "1", "0", "1"]),
            "decided_at": pa.array([DECIDED_AT] * 3 + [None, DECIDED_AT, datetime(1999, 1, 1, tzinfo=UTC)]),
        }
    )
    if form == "csv":
        pl.DataFrame(table).write_csv(tmp_path / "pairs.csv")
        summary = join_table(tmp_path / "pairs.csv", tmp_path / "out.parquet", **market.arguments())
        found = girl_columns(pl.read_parquet(tmp_path / "out.parquet"))
    else:
        found, summary = in_form(market, tmp_path, table, form)
    assert found["girl_tier"].to_list() == [0, None, None, None, None, None]
    assert found.row(0) == expected(market).row(0)
    counts = (summary.n_rows, summary.n_without_key, summary.n_without_vectors, summary.n_before_training_ended)
    assert counts == (6, 3, 1, 1)


ALL_NULL = {"typed": [pa.string(), pa.string(), pa.timestamp("us", "UTC")], "untyped": [pa.null()] * 3}
ALL_NULL |= {"floats": [pa.float64(), pa.int8(), pa.timestamp("ns")], "dates": [pa.string(), pa.string(), pa.date32()]}


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("types", ALL_NULL)
@pytest.mark.parametrize("form", ["parquet", "polars", "pandas"])
def test_no_rows_and_only_nulls(market: Market, tmp_path: Path, n: int, types: str, form: str) -> None:
    names = plain_pairs().columns
    table = pa.table({name: pa.nulls(n, kind) for name, kind in zip(names, ALL_NULL[types], strict=True)})
    found, summary = in_form(market, tmp_path, table, form)
    assert found.schema == expected(market).schema and found.null_count().row(0) == (n,) * found.width
    assert summary.n_without_key == summary.n_rows == n
    with pytest.raises(ShapeError, match="0 rows with a generated JD"):
        join_frame(pl.DataFrame(table), **market.arguments() | {"reduction": tmp_path / "new"}, fit=True)


def test_a_csv_with_a_header_alone(market: Market, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("decided_at,job_id,job_seeker_id,x\n")
    assert join_table(tmp_path / "pairs.csv", tmp_path / "out.csv", **market.arguments()).n_rows == 0
    assert (tmp_path / "out.csv").read_text().startswith("decided_at,job_id,job_seeker_id,x,girl_cos_cv_jd,")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "epoch": ({"decided_at": pa.array([1_646_352_000] * 5)}, "'decided_at' of .* is int64; times should be"),
    "clock": ({"decided_at": pa.array([5] * 5, pa.time32("s"))}, "time32"),
    "bool time": ({"decided_at": pa.array([True] * 5)}, "is bool"),
    "wrong text": (
        {"decided_at": pa.array(["2022-03-04", "soon", None, "04.03.2022", ""])},
        "2 rows .*rows 2, 4.*soon",
    ),
    "too old": ({"decided_at": pa.array([date(1815, 1, 1)] * 5)}, "rows 1, 2, 3, 4, 5.*before 1900"),
    "fractions": ({"job_id": pa.array([1.0, 2.5, 3.0, 4.0, 5.0])}, "row 1 holds 2.5"),
    "collapsed": ({"job_seeker_id": pa.array([2.0**53] * 5)}, "'job_seeker_id' of .*9007199254740992.0"),
    "bytes": ({"job_id": pa.array([b"1"] * 5)}, "'job_id' of .* is binary"),
    "lists": ({"job_id": pa.array([["1"]] * 5)}, "is list"),
    "dates as ids": ({"job_id": pa.array([date(2022, 1, 1)] * 5)}, "is date32"),
    "struct": ({"job_id": pa.array([{"a": 1}] * 5)}, "is struct"),
    "ours": ({"girl_tier": pa.array([1] * 5)}, "already has girl_tier"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["parquet", "polars", "pandas"])
def test_what_stands_for_no_id_or_time_is_refused_by_name(market: Market, tmp_path: Path, case: str, form: str) -> None:
    columns, said = BAD[case]
    table = pairs_table()
    for name, column in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(name, column)
    said = "of the table|already" if form != "parquet" else said
    with pytest.raises(DataError, match=said):
        in_form(market, tmp_path, table, form)
    assert not (tmp_path / "out.parquet").exists()


def test_pandas_objects_of_several_types_are_refused(market: Market) -> None:
    frame = pairs_table().to_pandas()
    with pytest.raises(DataError, match=r"'job_id' of the table holds ids of several types \(int, str\)"):
        join_frame(frame.assign(job_id=[1, "2", 3, 4, 5]), **market.arguments())
    with pytest.raises(DataError, match="'decided_at' of the table"):
        join_frame(frame.assign(decided_at=[1, "2", None, 4, DECIDED_AT]), **market.arguments())
    with pytest.raises(DataError, match="two columns 'job_id'"):
        join_frame(pd.concat([frame, frame[["job_id"]]], axis=1), **market.arguments())
    with pytest.raises(DataError, match="DataFrame is wanted, found dict"):
        join_frame({}, **market.arguments())  # type: ignore[type-var]
    with pytest.raises(DataError, match="'job_id' of the table is fixed_size_binary"):
        own = plain_pairs().with_columns(job_id=pl.Series([object()] * 5, dtype=pl.Object))
        join_frame(own, **market.arguments())


def test_columns_under_your_own_names(market: Market, tmp_path: Path) -> None:
    renamed = plain_pairs().rename(KEYS)
    joined, summary = join_frame(renamed, **market.arguments(), columns=KEYS)
    assert girl_columns(joined).equals(expected(market)) and summary.keys == KEYS
    with pytest.raises(DataError, match=r"no column 'job_seeker_id', 'job_id', 'decided_at' \(found user, "):
        join_frame(renamed, **market.arguments())
    both = renamed.with_columns(job_id=pl.lit("77"))  # as in the input tables, the mapped column is the id
    both.write_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "out.parquet"
    summary = join_table(tmp_path / "pairs.parquet", out, **market.arguments(), usual_columns=KEYS)
    assert girl_columns(pl.read_parquet(out)).equals(expected(market)) and summary.keys == KEYS
    chosen = {"job_id": "job_id"}
    summary = join_table(tmp_path / "pairs.parquet", out, **market.arguments(), columns=chosen, usual_columns=KEYS)
    assert summary.n_without_vectors == 5 and summary.keys == KEYS | chosen


def girl(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_takes_the_names_of_girl_yaml_and_of_its_options(market: Market, tmp_path: Path) -> None:
    own = [tmp_path / "pairs.csv", tmp_path / "out.csv", "--config", market.config, "--reduction", market.reduction]
    plain_pairs().rename(KEYS).write_csv(tmp_path / "pairs.csv")
    result = girl("join", *own)
    assert result.exit_code == 0, result.output
    assert "'job_id': 'vacancy'" in result.output and re.search(r"n_without_key +0", result.output)
    plain_pairs().rename({"job_id": "post"}).write_csv(tmp_path / "pairs.csv")
    result = girl("join", *own, "--column", "job_id=post")
    assert result.exit_code == 0, result.output
    assert isinstance(girl("join", *own).exception, DataError)
    for wrong in ("post", "job=post", "job_id="):
        error = girl("join", *own, "--column", wrong).exception
        assert isinstance(error, ConfigError) and "KEY=YOUR_COLUMN" in str(error)


def test_files_that_cannot_be_read_or_written(market: Market, tmp_path: Path) -> None:
    good = tmp_path / "pairs.parquet"
    pq.write_table(pairs_table().append_column("nested", pa.array([[1]] * 5)), good)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.csv").write_bytes(b'a,b\n"1')
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "twice.csv").write_text("job_id,job_id,job_seeker_id,decided_at\n1,2,3,4\n")
    names = ("bad.parquet", "bad.csv", "empty.csv", "twice.csv", "none.csv", "pairs.xlsx")
    for name in names:
        with pytest.raises(GirlError, match=re.escape(name)):
            join_table(tmp_path / name, tmp_path / "out.parquet", **market.arguments())
    with pytest.raises(ConfigError, match=r"out\.txt should end in"):
        join_table(good, tmp_path / "out.txt", **market.arguments())
    with pytest.raises(DataError, match=r"out\.csv cannot hold all columns"):
        join_table(good, tmp_path / "out.csv", **market.arguments())
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(ConfigError, match="would overwrite"):
        join_table(good, good, **market.arguments())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        join_table(good, tmp_path / "file" / "out.parquet", **market.arguments())


def test_times_far_away_and_just_after(market: Market) -> None:
    late = [KNOWN_AT, KNOWN_AT + timedelta(microseconds=1), datetime(2500, 1, 1, tzinfo=UTC), datetime(9999, 12, 31)]
    frame = plain_pairs(4).with_columns(decided_at=pl.Series([str(time) for time in late]))
    joined, _ = join_frame(frame, **market.arguments())
    assert joined["girl_tier"].to_list() == [None, 0, 0, 0], "features are used that were known strictly before"


def test_columns_are_spread_over_the_rows_they_belong_to() -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert spread_columns(frame, np.array([2, 0]), 3).rows() == [(2, None), (None, None), (1, "x")]
    assert spread_columns(frame.clear(), np.array([], int), 2).rows() == [(None, None)] * 2
    assert spread_columns(frame.clear(), np.array([], int), 0).schema == frame.schema


def joined_times(market: Market, times: pa.Array, **settings: str) -> list[int | None]:
    frame = plain_pairs().with_columns(decided_at=pl.Series(times))
    joined, _ = join_frame(frame, **market.arguments(), pair_format=PairFormat(**settings))
    return joined["girl_tier"].to_list()


def test_times_are_taken_by_the_rule_of_the_input_tables(market: Market) -> None:
    assert joined_times(market, pa.array([20220304] * 5), time_format="%Y%m%d") == [0] * 5
    for column in (pa.array([True] * 5), pa.array([[1]] * 5)):
        with pytest.raises(DataError, match=r"'decided_at' of the table is (bool|large_list)"):
            joined_times(market, column, time_format="epoch_s")


FINE = [-1, -999, -1000, -1001, -1999, 0, 1, 999, 1000, 1999, None]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_nanoseconds_are_rounded_down(zone: str | None) -> None:
    ids = pa.chunked_array([pa.array(["1"] * len(FINE))])
    columns = {"job_seeker_id": ids, "job_id": ids, "decided_at": pa.chunked_array([FINE], pa.timestamp("ns", zone))}
    keys = pair_keys(columns, {key: key for key in columns}, words_of_function("the table"), PairFormat())
    found = keys.decisions["decided_at"].to_physical().to_list()
    assert found == [None if number is None else number // 1000 for number in FINE]
    assert any("finer than microseconds" in note for note in keys.notes)


FAR = {
    "year 10000": (pa.array([253_402_300_800] * 5, pa.timestamp("s")), {}, "after the year 9999"),
    "far": (pa.array([None, 2**62, None, -(2**62), 0], pa.timestamp("s")), {}, r"rows 2, 4\): .*years 1 to 9999"),
    "far ms": (pa.array([2**62] * 5, pa.timestamp("ms", "UTC")), {}, "years 1 to 9999"),
    "far days": (pa.array([2**31 - 1] * 5, pa.date32()), {}, "years 1 to 9999"),
    "least": (pa.array([1 - 2**63] * 5, pa.timestamp("ns")), {}, "before 1900"),
    "format": (
        pa.array(["2022-03-04"] * 5),
        {"time_format": "epoch_s"},
        "of time_format epoch_s: .*leave the format out with a `pair_format` without a time format",
    ),
}


@pytest.mark.parametrize("case", FAR)
def test_a_time_that_cannot_be_used_says_why(case: str) -> None:
    times, settings, said = FAR[case]
    ids = pa.chunked_array([pa.array(["1"] * 5)])
    columns = {"job_seeker_id": ids, "job_id": ids, "decided_at": pa.chunked_array([times])}
    with pytest.raises(DataError, match=said) as refused:
        pair_keys(columns, {key: key for key in columns}, words_of_function("the table"), PairFormat(**settings))
    assert "query" not in str(refused.value) and "skew" not in str(refused.value)


def test_a_time_format_of_girl_yaml_can_be_lifted(market: Market, tmp_path: Path) -> None:
    config = tmp_path / "girl.yaml"
    raw = yaml.safe_load(Path(market.config).read_text()) | {"workspace": str(market.repo.parent)}
    raw["feast"] = {"repo": str(market.repo)}
    raw["tables"]["interactions"]["time_format"] = "epoch_s"
    config.write_text(yaml.safe_dump(raw))
    plain_pairs().with_columns(decided_at=pl.lit("2022-03-04")).write_csv(tmp_path / "pairs.csv")
    own = [tmp_path / "pairs.csv", tmp_path / "out.csv", "--config", config, "--reduction", market.reduction]
    assert "--set tables.interactions.time_format=null" in str(girl("join", *own).exception)
    assert girl("join", *own, "--set", "tables.interactions.time_format=null").exit_code == 0


TEXTS = ["C:\\new", '"x"', "a,b\tc", "NULL", "", None, "line\nbreak\r", "\\N", '5" pipe', "\\01", "plain"]


@pytest.mark.parametrize("quoting", ["none", "csv", None])
@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz", ".csv"])
def test_a_text_file_is_written_in_the_quoting_it_is_read_in(tmp_path: Path, ending: str, quoting: str | None) -> None:
    texts = TEXTS if quoting == "none" else [text for text in TEXTS if text not in ("", "\\N")]
    if quoting is None and ending != ".csv":
        texts = ["plain", '5" pipe', None, "a,b"]
    table = pa.table({"own": pa.array(texts), "n": ["1"] * len(texts), "said": pa.array(texts[::-1])})
    write_pairs(table, tmp_path / f"out{ending}", quoting)
    back = read_pairs(tmp_path / f"out{ending}", quoting)
    assert back.to_pydict() == table.to_pydict()
    if quoting == "none":
        with pytest.raises(DataError, match=r"cannot hold the column 'a\\nb'"):
            write_pairs(pa.table({"a\nb": ["1"]}), tmp_path / f"out{ending}", quoting)
        assert read_pairs(tmp_path / f"out{ending}", quoting).equals(back)


def test_integer_column_names(market: Market) -> None:
    frame = pairs_table().to_pandas().rename(columns={"job_id": 1, "decided_at": 2})
    joined, _ = join_frame(frame, **market.arguments(), columns={"job_id": "1", "decided_at": "2"})
    assert as_polars(joined).equals(expected(market))


def joined_with_advice(market: Market, folder: Path, name: str, *options: str) -> Any:
    own = [folder / name, folder / "out.parquet", "--config", market.config, "--reduction", market.reduction]
    return girl("join", *own, *(f"--column={key}={key}" for key in KEYS), *options)


def advised(message: str, option: str) -> list[list[str]]:
    """Return the options in a message that begin with `option`, as a shell gives them to the command."""
    return [shlex.split(text) for text in re.findall(rf"`({option}[ =][^`]*)`", message)]


WRONG_IDS = {
    "'.0' at their end": lambda i: f"{i}.0",
    "spaces around them": lambda i: f" {i}",
    "quotation marks around them": lambda i: f'"{i}"',
    "zeros in front": lambda i: f"00{i}",
    "`--column {key}=YOUR_COLUMN`": lambda i: f"user-{i}",
}


@pytest.mark.parametrize("key", ["job_seeker_id", "job_id"])
@pytest.mark.parametrize("said", WRONG_IDS)
def test_ids_that_the_store_lacks_are_shown_beside_its_own(market: Market, tmp_path: Path, said: str, key: str) -> None:
    ids = [WRONG_IDS[said](i) for i in range(5)]
    plain_pairs().with_columns(pl.Series(key, ids)).write_csv(tmp_path / "pairs.csv")
    result = joined_with_advice(market, tmp_path, "pairs.csv", "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 0, result.output
    [warning] = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert f"warning: {warning}" in result.stderr and "warning" not in result.stdout
    assert f"none of the 5 ids in column '{key}'" in warning and said.format(key=key) in warning
    assert repr(ids[0]) in warning and "those of the store as '0', '1', '10'" in warning
    fitting = joined_with_advice(market, tmp_path, "pairs.csv", "--fit", "--reduction", str(tmp_path / "new"))
    assert isinstance(fitting.exception, ShapeError) and warning in str(fitting.exception)


def test_no_warning_where_one_row_has_features(market: Market) -> None:
    frame = plain_pairs().with_columns(job_seeker_id=pl.Series(["0", "x", "y", "z", "0.0"]))
    assert join_frame(frame, **market.arguments())[1].warnings == []
    assert join_frame(frame.clear(), **market.arguments())[1].warnings == []


def test_other_reasons_for_no_features_are_named(market: Market) -> None:
    def warning(frame: pl.DataFrame) -> str:
        [only] = join_frame(frame, **market.arguments())[1].warnings
        return only

    frame = plain_pairs()
    assert "all 5 decisions are of before 2000-01-01" in warning(
        frame.with_columns(decided_at=pl.lit(datetime(1999, 1, 1, tzinfo=UTC)))
    )
    early = warning(frame.with_columns(decided_at=pl.lit(KNOWN_AT)))
    assert "the first vectors are of 2021-12-31 00:00 for job_seeker_id and 2021-12-31 00:00 for job_id" in early
    assert "no row of the table has both ids and a time" in warning(frame.with_columns(job_id=pl.lit(" ")))


SECONDS = int(DECIDED_AT.timestamp())
NUMBERS: dict[str, tuple[Any, str | None]] = {  # numbers, and the format that girl.yaml has
    "no format, s": (SECONDS, None),
    "no format, ms": (SECONDS * 1000, None),
    "no format, us": (SECONDS * 10**6, None),
    "no format, ns": (SECONDS * 10**9, None),
    "seconds as ms": (SECONDS, "epoch_ms"),
    "seconds as us": (SECONDS, "epoch_us"),
    "ms as us": (SECONDS * 1000, "epoch_us"),
    "us as ns": (SECONDS * 10**6, "epoch_ns"),
    "days as seconds": (20220304, "epoch_s"),
}


@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_time_format_that_a_join_advises_reads_the_numbers(
    market: Market, tmp_path: Path, case: str, suffix: str
) -> None:
    number, configured = NUMBERS[case]
    frame = plain_pairs().with_columns(decided_at=pl.lit(number, pl.Int64))
    frame.write_csv(tmp_path / "pairs.csv") if suffix == "csv" else frame.write_parquet(tmp_path / "pairs.parquet")
    config = ["--set", f"tables.interactions.time_format={configured}"] if configured else []
    result = joined_with_advice(market, tmp_path, f"pairs.{suffix}", *config)
    message = result.stderr if configured else str(result.exception)
    assert not configured or (result.exit_code == 0 and "are in 1970" in message), result.output
    [option] = advised(message, "--time-format")
    assert joined_with_advice(market, tmp_path, f"pairs.{suffix}", *config, *option).exit_code == 0
    assert girl_columns(pl.read_parquet(tmp_path / "out.parquet")).equals(expected(market))


def test_the_time_format_that_join_frame_advises_is_python(market: Market) -> None:
    frame = plain_pairs().with_columns(decided_at=pl.lit(SECONDS))
    with pytest.raises(DataError, match=r"give `pair_format=PairFormat\(time_format='epoch_s'\)`"):
        join_frame(frame, **market.arguments())
    typed = plain_pairs().with_columns(decided_at=pl.lit(SECONDS).cast(pl.Datetime("ms")))
    [warning] = join_frame(typed, **market.arguments())[1].warnings
    assert "its type is timestamp[ms]; write it again as whole numbers, and give `pair_format=" in warning
    for settings in ({"time_format": "dd.mm"}, {"time_zone": "Mars"}):
        with pytest.raises(ConfigError, match=next(iter(settings.values()))):
            joined_times(market, pa.array(["2022-03-04"] * 5), **settings)
    empty = pl.DataFrame({name: pl.Series([None], dtype=pl.Int64) for name in KEYS})
    with pytest.raises(DataError, match="if its numbers count from 1970"):
        join_frame(empty, **market.arguments())


@pytest.mark.parametrize(("quoting", "field"), [("csv", '"a\tb"'), ("none", "a\\tb")])
def test_the_quoting_that_a_join_advises_reads_the_file(
    market: Market, tmp_path: Path, quoting: str, field: str
) -> None:
    """girl.yaml names a Parquet table of interactions, for which `quoting` would be refused."""
    lines = ["job_seeker_id\tjob_id\tdecided_at\tnote", *(f"{i}\t{4 - i}\t2022-03-04\t{field}" for i in range(5))]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    refused = str(joined_with_advice(market, tmp_path, "pairs.tsv").exception)
    assert "tables.interactions" not in refused
    assert advised(refused, "--quoting") == [["--quoting", "none"], ["--quoting", "csv"]]
    assert joined_with_advice(market, tmp_path, "pairs.tsv", "--quoting", quoting).exit_code == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["note"].to_list() == ["a\tb"] * 5
    assert girl_columns(pl.read_parquet(tmp_path / "out.parquet")).equals(expected(market))
    if quoting == "csv":
        wrong = str(joined_with_advice(market, tmp_path, "pairs.tsv", "--quoting", "none").exception)
        assert advised(wrong, "--quoting") == [["--quoting", "csv"]]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_the_code_that_a_join_advises_for_another_delimiter_works(market: Market, tmp_path: Path, mark: str) -> None:
    lines = ["job_seeker_id,job_id,decided_at", *(f"{i},{4 - i},2022-03-04" for i in range(5))]
    (tmp_path / "it's [1].csv").write_text("\n".join(lines).replace(",", mark) + "\n")
    refused = str(joined_with_advice(market, tmp_path, "it's [1].csv").exception)
    assert "are separated by" in refused
    subprocess.run([sys.executable, "-c", refused.partition("as in Python: ")[2]], check=True)
    assert joined_with_advice(market, tmp_path, "it's [1].parquet").exit_code == 0
    assert girl_columns(pl.read_parquet(tmp_path / "out.parquet")).equals(expected(market))


@pytest.mark.parametrize("missing", [["job_id"], ["decided_at"], ["job_seeker_id", "decided_at"]])
def test_the_column_option_names_the_keys_that_are_missing(market: Market, tmp_path: Path, missing: list[str]) -> None:
    plain_pairs().rename({key: "their" + key for key in missing}).write_csv(tmp_path / "pairs.csv")
    own = [tmp_path / "pairs.csv", tmp_path / "out.parquet", "--config", market.config, "--reduction", market.reduction]
    [option] = advised(str(girl("join", *own).exception), "--column")
    assert [word.partition("=")[0] for word in option[1::2]] == missing
    given = [word.replace("YOUR_COLUMN", "their" + word.partition("=")[0]) for word in option]
    assert girl("join", *own, *given).exit_code == 0
    assert girl_columns(pl.read_parquet(tmp_path / "out.parquet")).equals(expected(market))
