"""CSV and TSV files: as many rows come out as were written, with their values, or the file is refused by name."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import duckdb
import pytest

from girl_features.config import TableConfig, TablesConfig
from girl_features.errors import DataError
from girl_features.input.opening import open_sources
from girl_features.sql import connected
from tests.input_tables import day, load, rows_of, write_tables
from tests.text_writers import (
    Row,
    hostile_text,
    lax_csv_line,
    mysql_batch_line,
    mysql_outfile_line,
    postgres_copy_line,
    rfc_line,
)

HEADER = ("job_seeker_id", "cv", "updated_at")
LineWriter = Callable[[Random, Row, str], str]


class Dialect(NamedTuple):
    """A way to write files, and the setting with which they are read."""

    ending: str
    quoting: str | None
    line: LineWriter
    line_ends: Sequence[str]
    missing: Sequence[str]  # texts that stand for a missing value


ANY_END, LF = ("\n", "\r\n", "\r"), ("\n",)
DIALECTS = {
    "csv": Dialect("csv", None, lambda r, f, end: rfc_line(r, f, ",", end), ANY_END, ["", "\\N"]),
    "csv, said": Dialect("csv", "csv", lambda r, f, end: rfc_line(r, f, ",", end), ANY_END, ["", "\\N"]),
    "lax csv": Dialect("csv", None, lambda r, f, end: lax_csv_line(r, f, end), ANY_END, ["", "\\N"]),
    "tsv of pandas": Dialect("tsv", "csv", lambda r, f, end: rfc_line(r, f, "\t", end), ANY_END, ["", "\\N"]),
    "INTO OUTFILE": Dialect("tsv", "none", lambda _, f, __: mysql_outfile_line(f), LF, ["", "NULL"]),
    "mysql --batch": Dialect("tsv", "none", lambda _, f, __: mysql_batch_line(f), LF, ["", "NULL"]),
    "COPY": Dialect("tsv", "none", lambda _, f, __: postgres_copy_line(f), LF, ["", "NULL"]),
}


def config_of(tmp_path: Path, pattern: str, quoting: str | None) -> TablesConfig:
    config = write_tables(tmp_path)
    table = TableConfig.model_validate({"path": str(tmp_path / pattern), "quoting": quoting})
    return config.model_copy(update={"job_seekers": table})


@pytest.mark.parametrize("name", DIALECTS)
def test_a_thousand_hostile_files_give_the_rows_that_were_written(tmp_path: Path, name: str) -> None:
    dialect = DIALECTS[name]
    (tmp_path / "parts").mkdir()
    kept: list[tuple[str, str]] = []
    rejected: dict[str, int] = {}
    n_written = 0
    for number in range(1000):
        random = Random(f"{name} {number}")
        end = random.choice(dialect.line_ends)
        lines = [dialect.line(random, HEADER, end)]
        for i in range(random.randrange(6)):
            key: str | None = f"s{number}-{i}"
            cv = random.choice([None, "\N{SNOWMAN}", hostile_text(random), hostile_text(random)])
            updated_at = "2020-01-01"
            if random.random() < 0.1:
                key, reason = None, "null_id"
            elif random.random() < 0.1:
                updated_at, reason = "01/02/2020", "bad_time"
            else:
                reason = ""
                kept.append((str(key), "" if cv is None or cv in dialect.missing or cv.strip() == "" else cv))
            if reason:
                rejected[reason] = rejected.get(reason, 0) + 1
            n_written += 1
            lines.append(dialect.line(random, (key, cv, updated_at), end))
            lines += [end] * (random.random() < 0.1)  # an empty line is no row
        data = "".join(lines).encode()
        if random.random() < 0.3:
            data = data.rstrip(b"\r\n")
        if random.random() < 0.2:
            data = b"\xef\xbb\xbf" + data
        path = tmp_path / "parts" / f"{number:04}.{dialect.ending}"
        if random.random() < 0.1:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            path.write_bytes(data)
    with load(config_of(tmp_path, "parts/*", dialect.quoting)) as tables:
        report = tables.report.tables["job_seekers"]
        assert report.n_read == n_written
        assert report.rejected == rejected
        assert report.n_kept == n_written - sum(rejected.values())
        assert [row[:2] for row in rows_of(tables, "job_seekers")] == sorted(kept)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connected(threads=1) as connection:
        connection.execute("SET preserve_insertion_order = true; SET enable_external_file_cache = false")
        yield connection


def read(connection: duckdb.DuckDBPyConnection, path: Path, quoting: str | None = None) -> list[Row]:
    """Return the ids, CVs and times of a file, before they are cleaned."""
    config = TableConfig.model_validate({"path": str(path), "quoting": quoting})
    rows = []
    with open_sources(connection, "job_seekers", config, home="memory") as sources:
        for source in sources:
            select = f"SELECT {', '.join(source.columns.values())} FROM {source.relation}"
            rows += connection.execute(select).fetchall()
    return rows


@pytest.mark.parametrize("ends", [("\n", "\r\n"), ("\n", "\r"), ("\r", "\r\n")], ids=repr)
def test_mixed_line_ends_lose_no_row(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, ends: tuple[str, str]
) -> None:
    n_right = 0
    for number in range(350):
        random = Random(f"{ends} {number}")
        rows = [
            (f"s{i}", hostile_text(random) or "x", random.choice(["2020", 'a"'])) for i in range(random.randrange(6))
        ]
        line_ends = [random.choice(ends) for _ in range(len(rows) + 1)]
        lines = [rfc_line(random, row, ",", end) for row, end in zip((HEADER, *rows), line_ends, strict=True)]
        path = tmp_path / f"{number}.csv"
        path.write_bytes("".join(lines).encode())
        try:
            found = read(connection, path)
        except DataError as error:
            assert len(set(line_ends)) > 1 and "its line ends are mixed" in str(error)
        else:
            n_right += 1
            assert found == [tuple(None if field == "\\N" else field for field in row) for row in rows]
    assert 50 < n_right < 300


ESCAPES = [
    (r"tab \t, line \n, return \r", "tab \t, line \n, return \r"),
    (r"back \b, form \f, vertical \v", "back \b, form \f, vertical \v"),
    (r"\\n \\\\ \\N \N", "\\n \\\\ \\N N"),
    (r"\101\12\x41\x4a\x9", "A\nAJ\t"),
    (r"\303\251 \xc3\xa9", "é é"),
    (r"\"\'\,\q\.", "\"',q."),
    ("tab \\\t, line \\\n, return \\\r", "tab \t, line \n, return \r"),
    ("raw \r return", "raw \r return"),
    ('"open', '"open'),
    ('closed"', 'closed"'),
    (r"zero \0 byte", "zero \0 byte"),
    (r"end\Z", "end\x1a"),
    (r"\N", None),
    ("NULL", None),
    (r"\NULL", "NULL"),
    ("", ""),
    ("\\\\\\\n\\\t", "\\\n\t"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "cv"), ESCAPES)
def test_escapes_of_databases(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, written: str, cv: str | None
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(f"job_seeker_id\tcv\tupdated_at\ns1\t{written}\t2020-01-01\ns2\tlast\t\\N\n".encode())
    assert read(connection, path, "none") == [("s1", cv, "2020-01-01"), ("s2", "last", None)]


def test_commas_of_a_database_are_escaped_too(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'job_seeker_id,cv,updated_at\ns1,"a\\, b,2020\n')
    assert read(connection, tmp_path / "a.csv", "none") == [("s1", '"a, b', "2020")]


TSV_HEADER = b"job_seeker_id\tcv\tupdated_at\n"
REFUSED = {
    "a.csv": {
        b'"s1","a","2020-01-01"\r\n"s2","b","2020-01-01"\n': r"line ends are mixed \(\\n and \\r\\n\), or a quotation",
        b"s1,a,2020-01-01\r\ns2,b,2020-01-01\n": "line ends are mixed, some .*write it again with one kind of line end",
        b"s1,a\rb,2020-01-01\n": r"line ends are mixed, .*each \\r in a text in double quotes",
        b"s1,a,2020-01-01\rs2,b,2020-01-01\n": "line ends are mixed",
        b"s1,a,2020-01-01,more\n": "Line: 2, Expected Number of Columns: 3 Found: 4",
        b's1,"a" b,2020-01-01\n': "Line: 2, Value with unterminated quote found",
        b's1,"a,2020-01-01\ns2,b,2020-01-01\n': "Value with unterminated quote found",
    },
    "a.tsv": {
        b"s1\tC:\\new\t2020-01-01\n": "holds a backslash, .*`tables.job_seekers.quoting: none` if .*quoting: csv` if",
        b's1\t"a\t2020-01-01\n': "holds a field that opens with a quotation mark, .*quoting: none",
        b'"s1"\ta\t2020-01-01\n': "holds a field that opens with a quotation mark",
        b"s1\tNULL\t2020-01-01\n": "holds a field that is the word NULL",
        b"s1\ta\tNULL": "holds a field that is the word NULL",
        b"s1\ta\n": "Line: 2, Expected Number of Columns: 3 Found: 2",
    },
    "none.tsv": {
        b"s1\ta\n": r"row 1 of '.*none.tsv' has 2 fields, but the header 3; a tab or line end .*quoting: csv",
        b"s1\ta\t2020-01-01\n\ns2\ta\tb\t2020-01-01\n": "row 2 of .* has 4 fields, but the header 3",
        b's1\t"a\nb"\t2020-01-01\n': "row 1 of .* has 2 fields",
        b"s1\ta\t2020-01-01\r\n": r"row 1 of .* has another line end than the header; write it again",
        b"s1\ta\\012\\0123\t2020-01-01\n": r"row 1 of .* holds \\0 and digits, .*remove it from the text",
        b"s1\tcaf\xe9\t2020-01-01\n": "holds bytes that are not UTF-8, in a row from 1 to 1; write it again as UTF-8",
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "rows"), [(name, rows) for name, cases in REFUSED.items() for rows in cases])
def test_a_file_that_could_lose_rows_is_refused_by_name(tmp_path: Path, name: str, rows: bytes) -> None:
    header = TSV_HEADER if name.endswith("tsv") else TSV_HEADER.replace(b"\t", b",")
    if rows.startswith(b"s1,a,2020-01-01\r\n"):
        header = header.replace(b"\n", b"\r\n")
    (tmp_path / name).write_bytes(header + rows)
    config = config_of(tmp_path, name, "none" if name == "none.tsv" else None)
    with pytest.raises(DataError, match=REFUSED[name][rows]) as caught:
        load(config)
    message = str(caught.value)
    assert message.startswith("table job_seekers: ") and name in message
    assert not any(text in message for text in ("C:", "café", "Traceback"))


def test_zero_bytes_stay_in_their_field(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    rows = [("s1", "a\0b", "2020"), ("s2", "\0", "2021")]
    for name, quoting in (("a.csv", None), ("a.csv", "none"), ("a.tsv", None), ("a.tsv", "csv"), ("a.tsv", "none")):
        delimiter = "," if name == "a.csv" else "\t"
        (tmp_path / name).write_text("".join(delimiter.join(row) + "\n" for row in (HEADER, *rows)))
        assert read(connection, tmp_path / name, quoting) == rows


def test_a_plain_tsv_needs_no_setting(tmp_path: Path) -> None:
    text = 'job_seeker_id\tcv\tupdated_at\ns1\ta 5" pipe, and NULLs; "quoted"\t2020-01-01\ns2\t "b\t2020-01-02'
    (tmp_path / "a.tsv").write_text(text)
    with load(config_of(tmp_path, "a.tsv", None), strict=False) as tables:
        cvs = [row[1] for row in rows_of(tables, "job_seekers")]
        assert cvs == ['a 5" pipe, and NULLs; "quoted"', ' "b']


def test_a_mark_is_found_wherever_the_file_is_cut_into_blocks(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    block = 1 << 20
    for shift in range(-8, 9):
        lines = b"s1\t" + b"x" * (block - len(TSV_HEADER) - 3 + shift) + b"\tNULL\n"
        (tmp_path / "a.tsv").write_bytes(TSV_HEADER + lines)
        with pytest.raises(DataError, match="the word NULL"):
            read(connection, tmp_path / "a.tsv")


FOREIGN = [
    ("a.csv", "job_seeker_id,cv,updated_at\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    ("a.tsv", "job_seeker_id\tcv\tupdated_at\n".encode("utf-16-le"), "should be UTF-8 CSV"),
    ("a.csv.gz", gzip.compress("job_seeker_id,cv\n".encode("utf-16"), mtime=0), "it is UTF-16; save it as UTF-8"),
    (
        "a.csv",
        gzip.compress(b"job_seeker_id,cv\n", mtime=0),
        "it is compressed by gzip; give it a name that ends in .gz",
    ),
    ("a.csv", b"PK\x03\x04rest", "it is a ZIP archive or Excel file; save its table as CSV"),
    ("a.csv.gz", b"job_seeker_id,cv\n", "BadGzipFile while reading it"),
]


@pytest.mark.parametrize(("name", "data", "message"), FOREIGN)
def test_other_formats_are_named(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    for quoting in (None, "csv", "none"):
        with pytest.raises(DataError, match=message):
            read(connection, tmp_path / name, quoting)


@pytest.mark.parametrize("quoting", [None, "csv", "none"])
def test_a_compressed_file_that_was_cut_or_damaged_is_refused(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, quoting: str | None
) -> None:
    rows = "".join(f"s{i},cv {Random(i).random()},2020-01-01\n" for i in range(300))
    whole = gzip.compress(f"job_seeker_id,cv,updated_at\n{rows}".encode())
    path = tmp_path / "a.csv.gz"
    path.write_bytes(whole)
    assert len(read(connection, path, quoting)) == 300
    flipped = bytes([*whole[:-6], whole[-6] ^ 1, *whole[-5:]])
    for data in (flipped, *(whole[:n] for n in (30, len(whole) // 2, len(whole) - 9, len(whole) - 1))):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"job_seekers: .*a.csv.gz' should be .*(EOFError|BadGzipFile)"):
            read(connection, path, quoting)


@pytest.mark.parametrize("quoting", [None, "csv", "none"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_header_alone_is_a_table_without_rows(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, quoting: str | None, end: bytes
) -> None:
    for name, delimiter in (("a.csv", b","), ("a.tsv", b"\t")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + TSV_HEADER.strip().replace(b"\t", delimiter) + end)
        assert read(connection, tmp_path / name, quoting) == []


def test_damaged_files_give_rows_or_a_named_error(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    n_refused = 0
    for number in range(300):
        random = Random(number)
        dialect = random.choice(list(DIALECTS.values()))
        lines = [dialect.line(random, (f"s{i}", hostile_text(random), "2020"), "\n") for i in range(3)]
        data = bytearray((dialect.line(random, HEADER, "\n") + "".join(lines)).encode())
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.choice(b'"\\\n\r\t,\0\xff\xc3a')
        path = tmp_path / f"{number}.{dialect.ending}"
        path.write_bytes(data)
        try:
            read(connection, path, dialect.quoting)
        except DataError as error:
            assert "table job_seekers: " in str(error)
            n_refused += 1
    assert 50 < n_refused < 300


def test_long_quoted_texts_that_look_like_rows_are_read_from_a_large_file(tmp_path: Path) -> None:
    lookalike = "\n".join(f"s{i},row {i},2020-01-01" for i in range(500))
    rows = [(f"s{i}", lookalike[: i * 37 % len(lookalike)], "2020-01-01") for i in range(4000)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        file.write("job_seeker_id,cv,updated_at\n")
        file.writelines(f'{key},"{cv}",{updated_at}\n' for key, cv, updated_at in rows)
    assert (tmp_path / "a.csv").stat().st_size > 20_000_000  # DuckDB gives each thread 8 MB
    with load(config_of(tmp_path, "a.csv", None)) as tables:
        assert tables.report.tables["job_seekers"].n_kept == len(rows)
        assert {row[:2] for row in rows_of(tables, "job_seekers")} == {row[:2] for row in rows}


def test_a_large_table_of_a_database_is_read_in_order_and_in_pieces(tmp_path: Path) -> None:
    n = 30_000
    with (tmp_path / "a.tsv").open("w") as file:
        file.write("job_seeker_id\tcv\tupdated_at\n")
        file.writelines(f"s1\tcv {i} \\n of many\t2020-01-01\n" for i in range(n))
    began = time.monotonic()
    with load(config_of(tmp_path, "a.tsv", "none")) as tables:
        assert tables.report.tables["job_seekers"].n_read == n
        assert [row[:3] for row in rows_of(tables, "job_seekers")] == [("s1", f"cv {n - 1} \n of many", day(0))]
        assert [r.row for r in tables.report.rejections[:3]] == [1, 2, 3]
    assert time.monotonic() - began < 60


def test_files_of_one_glob_may_be_written_in_several_ways(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.csv").write_bytes(b"job_seeker_id,cv,updated_at\r\ns1,a,2020-01-01\r\n")
    (tmp_path / "parts" / "b.tsv").write_bytes(b"cv\tupdated_at\tjob_seeker_id\nb,c\t2020-01-02\ts2\n")
    (tmp_path / "parts" / "c.csv").write_bytes(b'note,cv,job_seeker_id,updated_at\r"x\r","c\n",s3,2020-01-03\r')
    with load(config_of(tmp_path, "parts/*", None)) as tables:
        rows = [row[:3] for row in rows_of(tables, "job_seekers")]
        assert rows == [("s1", "a", day(0)), ("s2", "b,c", day(1)), ("s3", "c\n", day(2))]


def test_quoting_is_for_text_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`tables.job_seekers.quoting` is for CSV and TSV files.*remove it"):
        load(config_of(tmp_path, "job_seekers.parquet", "none"))
    with pytest.raises(ValueError, match="`quoting` goes with `path`"):
        TableConfig(query="SELECT 1", quoting="none")


def test_the_guide_finds_the_malformed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [b"job_seeker_id,cv,updated_at\n", *(b'%d,"a\nb, ""c""",2020-01-01\n' % i for i in range(3000))]
    rows[2000] = b"7,too,many,fields\n"
    (tmp_path / "cvs.csv").write_bytes(b"".join(rows))
    with pytest.raises(DataError, match="CSV Error on Line: 2001, Expected Number of Columns: 3 Found: 4"):
        load(config_of(tmp_path, "cvs.csv", None))
    guide = (Path(__file__).resolve().parents[1] / "docs" / "guide.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(import duckdb\n.*?store_rejects.*?)```", guide, re.DOTALL)
    printed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert printed.stdout == f"[(2001, {sum(map(len, rows[:2000])) + 1}, 'Expected Number of Columns: 3 Found: 4')]\n"
