from __future__ import annotations

import base64
import gzip
import json
import re
import resource
import subprocess
import sys
import tempfile
import unicodedata
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from girl_features.config import TableConfig, TablesConfig
from girl_features.contract import text_hash as cv_hash
from girl_features.errors import DataError, RejectedRowsError
from girl_features.input.checks import MAX_ID_BYTES
from girl_features.input.report import MAX_LISTED
from girl_features.input.sources import printable
from girl_features.input.text_cleaning import MAX_TEXT_CHARS, SQL_CLEAN_CHARACTERS
from girl_features.sql import connected
from tests.input_tables import CLOCK_SKEW, GOOD, NOW, day, load, rows_of, table_of, write_tables

UTF8_SURROGATE = b"abc\xed\xa0\x80"


def add(name: str, *bad: tuple[Any, ...]) -> dict[str, list[tuple[Any, ...]]]:
    """GOOD with `bad` rows after the two good ones of one table."""
    return {name: [*GOOD[name], *bad]}


def test_good_rows_come_out_as_they_went_in(tmp_path: Path) -> None:
    with load(write_tables(tmp_path), strict=True) as tables:
        assert rows_of(tables, "job_seekers") == [(*row, cv_hash(row[1])) for row in GOOD["job_seekers"]]
        assert rows_of(tables, "jobs") == [(*row, row[2]) for row in GOOD["jobs"]]
        assert rows_of(tables, "interactions") == GOOD["interactions"]
        assert tables.report.n_rejected == 0
        assert tables.report.notes == []
        assert tables.report.tables["jobs"] == (2, 2, {})


CONTROLS_TEXT = "\x00\x01" * 40 + "text"

REJECTED = [
    ("job_seekers", (None, "cv", day(0)), "null_id"),
    ("job_seekers", ("", "cv", day(0)), "blank_id"),
    ("job_seekers", (" \t\u00a0\u200b", "cv", day(0)), "blank_id"),
    ("job_seekers", ("é" * 257, "cv", day(0)), "long_id"),  # 514 bytes
    ("job_seekers", ("x" * 10_000, "cv", day(0)), "long_id"),
    ("job_seekers", ("a\x00b", "cv", day(0)), "bad_id"),
    ("job_seekers", ("s2", "cv", None), "null_time"),
    ("job_seekers", ("s2", "cv", NOW + CLOCK_SKEW + timedelta(microseconds=1)), "future_time"),
    ("job_seekers", ("s2", "cv", datetime(1, 1, 1, tzinfo=UTC)), "bad_time"),
    ("job_seekers", ("s2", "%PDF-1.7 …", day(0)), "binary_text"),
    ("job_seekers", ("s2", CONTROLS_TEXT, day(0)), "binary_text"),
    ("job_seekers", ("s1", "same key", day(10)), "duplicate"),
    ("jobs", (None, "jd", day(0)), "null_id"),
    ("jobs", ("j3", None, day(0)), "blank_jd"),
    ("jobs", ("j3", " \n\u2003\ufeff", day(0)), "blank_jd"),
    ("jobs", ("j3", "jd", None), "null_time"),
    ("jobs", ("j3", "jd", NOW + timedelta(days=1)), "future_time"),
    ("jobs", ("j1", "a later posting", day(3)), "duplicate"),
    ("interactions", (None, "j1", True, day(5)), "null_id"),
    ("interactions", ("s1", None, True, day(5)), "null_id"),
    ("interactions", ("s1", "j1", None, day(6)), "null_matched"),
    ("interactions", ("s1", "j1", True, None), "null_time"),
    ("interactions", ("s1", "j1", True, NOW + timedelta(days=1)), "future_time"),
    ("interactions", ("s1", "j1", False, day(5)), "duplicate"),
    ("interactions", ("s9", "j1", True, day(5)), "no_seeker"),
    ("interactions", ("s1", "j9", True, day(5)), "no_job"),
    ("interactions", ("s1", "j1", True, day(0)), "no_earlier_cv"),  # the CV is of that very instant
]


@pytest.mark.parametrize(("table", "row", "reason"), REJECTED)
def test_a_bad_row_is_rejected_with_its_number_and_reason(
    tmp_path: Path, table: str, row: tuple[Any, ...], reason: str
) -> None:
    config = write_tables(tmp_path, add(table, row))
    with load(config) as tables:
        report = tables.report
        assert report.tables[table] == (3, 2, {reason: 1})
        assert report.n_rejected == 1
        (rejection,) = report.rejections
        assert (rejection.table, rejection.reason) == (table, reason)
        # of two rows with one key the last (of jobs: the one posted last) is kept
        assert rejection.row == (3 if reason != "duplicate" else {"job_seekers": 2}.get(table, 1))
        assert rejection.file == str(tmp_path / f"{table}.parquet")
        assert len(rejection.shown_id) < 250 and rejection.shown_id.isprintable()
        json.dumps(report.to_dict())
    with pytest.raises(RejectedRowsError, match=f"1 rows of {table}"):
        load(config, strict=True)


def test_the_edges_of_what_is_allowed_are_kept(tmp_path: Path) -> None:
    rows = {
        "job_seekers": [("x" * MAX_ID_BYTES, "cv", day(0)), ("s2", "cv", NOW + CLOCK_SKEW)],
        "interactions": [("x" * MAX_ID_BYTES, "j1", True, day(0) + timedelta(microseconds=1))],
    }
    with load(write_tables(tmp_path, rows), strict=True) as tables:
        assert tables.report.tables["job_seekers"].n_kept == 2
        assert tables.report.tables["interactions"].n_kept == 1


def test_the_winner_of_duplicates_is_the_newest_then_the_last(tmp_path: Path) -> None:
    rows = {
        "job_seekers": [("s1", "old", day(0)), ("s1", "new", day(0)), ("s1", "newer version", day(1))],
        "jobs": [("j1", "posted later", day(3)), ("j1", "posted first", day(1)), ("j2", "jd", day(1))],
        "interactions": [("s1", "j1", True, day(5)), ("s1", "j1", False, day(5)), ("s1", "j1", True, day(6))],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        assert [row[1] for row in rows_of(tables, "job_seekers")] == ["new", "newer version"]
        assert [row[1] for row in rows_of(tables, "jobs")] == ["posted later", "jd"]
        assert [row[2] for row in rows_of(tables, "interactions")] == [False, True]


def test_a_row_that_is_rejected_wins_over_no_duplicate(tmp_path: Path) -> None:
    rows = add("jobs", ("j1", "  ", day(3)))
    with load(write_tables(tmp_path, rows)) as tables:
        assert tables.report.tables["jobs"].rejected == {"blank_jd": 1}
        assert rows_of(tables, "jobs")[0][1] == "weld ships"


def test_rejecting_a_seeker_takes_its_interactions_along(tmp_path: Path) -> None:
    rows = {"job_seekers": [("s1", "cv", None)], "jobs": [("j1", None, day(0)), ("j2", "jd", day(0))]}
    with load(write_tables(tmp_path, rows)) as tables:
        assert tables.report.tables["interactions"].rejected == {"no_seeker": 2}
        assert rows_of(tables, "interactions") == []


@pytest.mark.parametrize("cv", [None, "", " \n\t\u00a0\ufeff"])
def test_a_blank_cv_is_kept_and_noted(tmp_path: Path, cv: str | None) -> None:
    with load(write_tables(tmp_path, add("job_seekers", ("s2", cv, day(0)))), strict=True) as tables:
        assert ("s2", "", day(0), cv_hash("")) in rows_of(tables, "job_seekers")
        (note,) = tables.report.notes
        assert (note.table, note.code, note.n_rows) == ("job_seekers", "blank_cv", 1)


FILES = [
    (b"%PDF-1.4\n%\xe2\xe3", "PDF"),
    (b"\n \xef\xbb\xbf%PDF-1.4", "PDF"),
    (b"PK\x03\x04\x14\x00\x06\x00\x08", "ZIP"),
    (b"{\\rtf1\\ansi", "RTF"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
    (b"GIF89a\x01", "GIF"),
    (b"\x1f\x8b\x08\x00\x00", "gzip"),
]
AS_TEXT = {
    "latin-1": lambda data: data.decode("latin-1"),
    "replaced": lambda data: data.decode("utf-8", "replace"),
}


MISREAD = [(read(data), name) for read in AS_TEXT.values() for data, name in FILES if b"\xef\xbb\xbf" not in data]
MISREAD.append(("\n \ufeff%PDF-1.4", "PDF"))


@pytest.mark.parametrize(("text", "name"), MISREAD)
def test_a_file_read_as_text_is_rejected_with_its_type(tmp_path: Path, text: str, name: str) -> None:
    with load(write_tables(tmp_path, add("jobs", ("j3", text, day(0))))) as tables:
        (rejection,) = tables.report.rejections
        assert rejection.reason == "binary_text" and name in rejection.detail


@pytest.mark.parametrize(("data", "name"), [FILES[0], FILES[2], FILES[4]])
def test_a_file_in_base64_is_rejected_with_its_type(tmp_path: Path, data: bytes, name: str) -> None:
    text = base64.b64encode(data + bytes(30)).decode()
    with load(write_tables(tmp_path, add("jobs", ("j3", text, day(0))))) as tables:
        assert name in tables.report.rejections[0].detail


def test_a_bytes_column_keeps_what_is_utf8_and_names_what_is_not(tmp_path: Path) -> None:
    values = ["café".encode(), *(data for data, _ in FILES), UTF8_SURROGATE, bytes(range(256))]
    n = len(values)
    jobs = pa.table({"job_id": [f"j{i}" for i in range(n)], "jd": values, "posted_at": [day(0)] * n})
    with load(write_tables(tmp_path, {"jobs": jobs, "interactions": []})) as tables:
        assert [row[1] for row in rows_of(tables, "jobs")] == ["café"]
        details = [rejection.detail for rejection in tables.report.rejections]
        for (_, name), detail in zip(FILES, details, strict=False):
            assert name in detail
        assert all("no known type" in detail for detail in details[len(FILES) :])


def test_random_bytes_are_rejected(tmp_path: Path) -> None:
    random = Random(0)
    jds = [random.randbytes(random.randint(400, 4000)).decode("latin-1") for _ in range(50)]
    rows = add("jobs", *((f"n{i}", jd, day(0)) for i, jd in enumerate(jds)))
    with load(write_tables(tmp_path, rows)) as tables:
        assert tables.report.tables["jobs"].rejected == {"binary_text": 50}


def clean(text: str) -> str:
    """What should become of a text, spelled out."""
    kept = "".join("\n" if c in "\v\f\x85" else c for c in text)
    kept = "".join(c for c in kept if c in "\t\n\r" or unicodedata.category(c) != "Cc")
    kept = unicodedata.normalize("NFC", kept)
    is_blank = all(c.isspace() or unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cf") for c in kept)
    return "" if is_blank else kept


UNUSUAL = [
    "\x00",
    "\x1f",
    "\v",
    "\f",
    "\x85",
    "\u202e",
    "\u0301",
    "e\u0301",
    "👩‍🔧",
    "שלום",
    "مرحبا",
    "ﬁ",
    "가",
    "각",
    "Å",
]
texts = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(UNUSUAL), st.characters(max_codepoint=0x500)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts.map("".join), min_size=1, max_size=60))
def test_text_is_normalised_and_otherwise_comes_back_equal(tmp_path: Path, cvs: list[str]) -> None:
    rows = {"job_seekers": [(f"s{i}", cv, day(0)) for i, cv in enumerate(cvs)], "interactions": []}
    with load(write_tables(tmp_path, rows)) as tables:
        binary = {rejection.shown_id for rejection in tables.report.rejections}
        assert all(sum(unicodedata.category(c) == "Cc" for c in cvs[int(i[1:])]) >= 32 for i in binary)
        wanted = {f"s{i}": clean(cv) for i, cv in enumerate(cvs) if f"s{i}" not in binary}
        found = {row[0]: (row[1], row[3]) for row in rows_of(tables, "job_seekers")}
        assert found == {key: (cv, cv_hash(cv)) for key, cv in wanted.items()}


def test_characters_that_skip_cleaning_are_safe_to_skip() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    decomposed = (unicodedata.decomposition(c).split() for c in characters)
    seconds = {int(parts[1], 16) for parts in decomposed if len(parts) == 2 and not parts[0].startswith("<")}
    clean = re.compile(
        "[" + re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: chr(int(code[1], 16)), SQL_CLEAN_CHARACTERS) + "]"
    )
    found = [c for c in characters if clean.fullmatch(c)]
    assert len(found) > 20_000
    for c in found:
        assert unicodedata.normalize("NFC", c) == c
        assert ord(c) not in seconds  # joins no letter before it
        assert unicodedata.category(c) != "Cc" or c in "\t\n\r"


def test_removed_characters_are_noted(tmp_path: Path) -> None:
    rows = add("job_seekers", ("s2", "a\x00b", day(0)), ("s3", "e\u0301", day(0)), ("s4", "👩‍🔧 שלום", day(0)))
    with load(write_tables(tmp_path, rows)) as tables:
        assert [(note.code, note.n_rows) for note in tables.report.notes] == [("normalised_text", 2)]


def test_a_long_text_is_cut_and_counted(tmp_path: Path) -> None:
    rows = add("job_seekers", ("s2", "é" * (MAX_TEXT_CHARS + 1), day(0)), ("s3", "é" * MAX_TEXT_CHARS, day(0)))
    with load(write_tables(tmp_path, rows)) as tables:
        lengths = [len(row[1]) for row in rows_of(tables, "job_seekers")]
        assert lengths[-2:] == [MAX_TEXT_CHARS, MAX_TEXT_CHARS]
        assert [(note.code, note.n_rows) for note in tables.report.notes] == [("truncated_text", 1)]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_50_mb_cv_fits_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    config = write_tables(tmp_path, add("job_seekers", ("s2", "é" * 25_000_000, day(0))))
    if suffix == "csv":
        path = tmp_path / "job_seekers.csv"
        duckdb.execute(f"COPY (FROM '{tmp_path}/job_seekers.parquet') TO '{path}'")
        config = config.model_copy(update={"job_seekers": TableConfig(path=str(path))})
    (tmp_path / "tables.json").write_text(config.model_dump_json())
    script = (
        "import resource, sys; from girl_features.config import TablesConfig; from tests.input_tables import load\n"
        "config = TablesConfig.model_validate_json(open(sys.argv[1]).read())\n"
        "with load(config) as tables: print([note.code for note in tables.report.notes])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tables.json")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    notes, peak = done.stdout.splitlines()
    assert notes == "['truncated_text']"
    assert int(peak) < 1_500_000  # kB; about 1 GB, most of it DuckDB's, varies by a few per cent


ZONED = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in ("UTC", "Europe/Berlin")]
NAIVE = [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")] + [pa.date32()]


@pytest.mark.parametrize("kind", ZONED + NAIVE, ids=str)
def test_every_kind_of_time_becomes_utc_microseconds(tmp_path: Path, kind: pa.DataType) -> None:
    seekers = pa.table(
        {
            "job_seeker_id": ["s1"],
            "cv": ["welder"],
            "updated_at": pa.array([day(0)], pa.timestamp("us", "UTC")).cast(kind),
        }
    )
    with load(write_tables(tmp_path, {"job_seekers": seekers})) as tables:
        assert rows_of(tables, "job_seekers")[0][2] == day(0)
        codes = {note.code for note in tables.report.notes}
        assert ("naive_timestamps" in codes) == (kind in NAIVE)
        assert ("nanoseconds" in codes) == ("[ns" in str(kind))
        assert len(tables.report.notes) == len(codes)
        (dtype,) = tables.connection.execute("SELECT typeof(updated_at) FROM job_seekers").fetchone()
        assert dtype == "TIMESTAMP WITH TIME ZONE"


def test_nanoseconds_are_cut_not_rounded(tmp_path: Path) -> None:
    nanoseconds = int(day(0).timestamp()) * 10**9 + 1_999
    seekers = pa.table(
        {"job_seeker_id": ["s1"], "cv": ["welder"], "updated_at": pa.array([nanoseconds], pa.timestamp("ns"))}
    )
    with load(write_tables(tmp_path, {"job_seekers": seekers})) as tables:
        assert rows_of(tables, "job_seekers")[0][2] == day(0) + timedelta(microseconds=1)


JOBS_COLUMNS = {"job_id": pa.array(["j1"]), "jd": pa.array(["jd"]), "posted_at": pa.array([day(0)])}
WRONG_TYPES = [
    (
        "jobs",
        {**JOBS_COLUMNS, "job_id": pa.array([1.0])},
        r"DOUBLE, wanted text or integers for job_id.*CAST\(CAST\(\\\"job_id\\\" AS HUGEINT\) AS VARCHAR\)",
    ),
    ("jobs", {**JOBS_COLUMNS, "jd": pa.array([1.5])}, "DOUBLE, wanted text for jd"),
    (
        "jobs",
        {**JOBS_COLUMNS, "posted_at": pa.array([1577836800])},
        "BIGINT, wanted a time, a date or a text.*`tables.jobs.time_format: epoch_s`",
    ),
]
INTERACTION = {"job_seeker_id": pa.array(["s1"]), "job_id": pa.array(["j1"]), "decided_at": pa.array([day(5)])}
WRONG_TYPES += [
    ("interactions", {**INTERACTION, "matched": pa.array(["yes"])}, "VARCHAR, wanted true/false or 1/0"),
    ("interactions", {**INTERACTION, "matched": pa.array([1.0])}, "DOUBLE, wanted true/false or 1/0"),
    ("interactions", {**INTERACTION, "matched": pa.array([2])}, "holds '2' in row 1, wanted only true/false or 1/0"),
]


@pytest.mark.parametrize(("table", "columns", "message"), WRONG_TYPES)
def test_a_column_of_the_wrong_type_is_an_error_that_says_how_to_cast(
    tmp_path: Path, table: str, columns: dict[str, pa.Array], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(write_tables(tmp_path, {table: pa.table(columns)}))


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.bool_()], ids=str)
def test_matched_may_be_bool_or_integer(tmp_path: Path, kind: pa.DataType) -> None:
    interactions = table_of("interactions", GOOD["interactions"])
    column = interactions["matched"].cast(pa.int8()).cast(kind)
    interactions = interactions.set_column(2, "matched", column)
    with load(write_tables(tmp_path, {"interactions": interactions})) as tables:
        assert rows_of(tables, "interactions") == GOOD["interactions"]


SQL_IDS = ["'; DROP TABLE jobs; --", '"', "a'b", "$1", "?", "{x}", "%s", "\\", "../../etc/passwd", "NULL", "٣", "שם"]


def test_sql_in_ids_is_stored_literally(tmp_path: Path) -> None:
    rows = {
        "job_seekers": [(key, key, day(0)) for key in SQL_IDS],
        "jobs": [(key, key, day(0)) for key in SQL_IDS],
        "interactions": [(key, key, True, day(1)) for key in SQL_IDS],
    }
    with load(write_tables(tmp_path, rows), strict=True) as tables:
        assert {row[:2] for row in rows_of(tables, "interactions")} == {(key, key) for key in SQL_IDS}
        assert {row[1] for row in rows_of(tables, "jobs")} == set(SQL_IDS)


def test_rejections_are_listed_up_to_a_bound_and_all_counted(tmp_path: Path) -> None:
    n = 3 * MAX_LISTED
    rows = add("jobs", *((None, "jd", day(0)) for _ in range(n)), ("x\n[red]\u202e" * 600, "jd", day(0)))
    with load(write_tables(tmp_path, rows)) as tables:
        assert tables.report.tables["jobs"].rejected == {"long_id": 1, "null_id": n}
        assert [rejection.row for rejection in tables.report.rejections] == [*range(3, 3 + MAX_LISTED), n + 3]
        assert tables.report.rejections[0].shown_id == "(null)"
        assert tables.connection.execute("SELECT count(*) FROM rejections").fetchone() == (n + 1,)


def test_known_at_is_just_before_the_first_decision_where_that_is_no_later_than_the_posting(tmp_path: Path) -> None:
    rows = {
        "jobs": [("j1", "jd", day(8)), ("j2", "jd", day(2)), ("j3", "jd", day(15))],
        "interactions": [
            ("s1", "j1", True, day(5)),
            ("s1", "j1", False, day(4)),
            ("s1", "j2", False, day(15)),
            ("s1", "j3", False, day(15)),  # decided at the very instant of the posting
        ],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        moment = timedelta(microseconds=1)
        assert [row[3] for row in rows_of(tables, "jobs")] == [day(4) - moment, day(2), day(15) - moment]
        (note,) = tables.report.notes
        assert (note.code, note.n_rows) == ("decided_before_posted", 3)


def test_a_job_posted_again_is_not_known_before_its_new_text_was(tmp_path: Path) -> None:
    rows = {
        "jobs": [("j1", "as it was", day(1)), ("j1", "written after the outcome", day(9))],
        "interactions": [("s1", "j1", True, day(5)), ("s1", "j1", False, day(10))],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        assert [row[1:] for row in rows_of(tables, "jobs")] == [("written after the outcome", day(9), day(9))]
        assert [row[3] for row in rows_of(tables, "interactions")] == [day(10)]
        assert tables.report.tables["interactions"].rejected == {"no_earlier_jd": 1}


def csv_config(tmp_path: Path, seekers: str | bytes, name: str = "job_seekers.csv") -> TablesConfig:
    data = seekers.encode() if isinstance(seekers, str) else seekers
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    config = write_tables(tmp_path)
    return config.model_copy(update={"job_seekers": TableConfig(path=str(tmp_path / name))})


@pytest.mark.parametrize("name", ["job_seekers.csv", "JOB_SEEKERS.CSV", "job_seekers.csv.gz"])
def test_csv_keeps_text_as_it_is_and_reads_iso_times(tmp_path: Path, name: str) -> None:
    text = (
        "\ufeffextra,cv,job_seeker_id,updated_at\r\n"
        '1,"two\nlines, ""quoted""",007,2020-01-01\r\n'
        "2,,s1,2020-01-01T02:00:00+02:00\r\n"
        "3,cv,s1,2020-01-02 00:00:00.1234567Z\r\n"
        "4,cv,s1,01/02/2020\r\n"
        "5,cv,s1,\r\n"
        "6,cv,s1,infinity\r\n"
    )
    with load(csv_config(tmp_path, text, name)) as tables:
        assert [row[:3] for row in rows_of(tables, "job_seekers")] == [
            ("007", 'two\nlines, "quoted"', day(0)),
            ("s1", "", day(0)),
            ("s1", "cv", day(1) + timedelta(microseconds=123456)),
        ]
        found = [(rejection.row, rejection.reason) for rejection in tables.report.rejections if rejection.row > 2]
        assert found == [(4, "bad_time"), (5, "null_time"), (6, "bad_time")]
        notes = {note.code: note.n_rows for note in tables.report.notes}
        assert notes == {"naive_timestamps": 1, "nanoseconds": 1, "blank_cv": 1}


@pytest.mark.parametrize(
    ("word", "matched"), [("true", True), ("TRUE", True), ("1", True), (" 0 ", False), ("False", False)]
)
def test_csv_matched(tmp_path: Path, word: str, matched: bool) -> None:
    config = write_tables(tmp_path)
    path = tmp_path / "interactions.tsv"
    path.write_text(f"job_seeker_id\tjob_id\tmatched\tdecided_at\ns1\tj1\t{word}\t2020-01-06\n")
    with load(config.model_copy(update={"interactions": TableConfig(path=str(path))})) as tables:
        assert rows_of(tables, "interactions") == [("s1", "j1", matched, day(5))]


HEADER = "job_seeker_id,cv,updated_at\n"
BAD_FILES = [
    ("a.csv", b"", "header line of column names, each named once; found none"),
    ("a.csv", b"cv,cv,updated_at\n", "each named once"),
    ("a.csv", b"job_seeker_id;cv;updated_at\n", "are separated by semicolons.*delim = ';'"),
    ("a.csv", HEADER.encode() + b"s1,caf\xe9 secret,2020-01-01\n", "Invalid unicode; wanted UTF-8"),
    ("a.csv", HEADER.encode() + b"s1," + UTF8_SURROGATE + b",2020-01-01\n", "Invalid unicode; wanted UTF-8"),
    ("a.csv", HEADER.encode() + b"s1,secret\n", "Line: 2, Expected Number of Columns: 3 Found: 2"),
    ("a.csv", HEADER.encode() + b's1,"secret,2020-01-01\n', "Line: 2, Value with unterminated quote"),
    ("a.csv", "é".encode("utf-16"), "UTF-8 CSV with a header"),
    ("a.csv", b"caf\xe9,cv\n", "UTF-8 CSV with a header"),
    ("a.csv.gz", b"", None),
    ("a.parquet", b"", "cannot read '.*a.parquet': .*write it again"),
    ("a.parquet", b"PAR1 no parquet at all", "cannot read '.*a.parquet': .*write it again"),
    ("a.xlsx", b"PK", "should be Parquet"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES)
def test_a_file_that_cannot_be_read_is_named_with_the_next_step(
    tmp_path: Path, name: str, data: bytes, message: str | None
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    config = write_tables(tmp_path).model_copy(update={"job_seekers": TableConfig(path=str(path))})
    with pytest.raises(DataError, match=message) as caught:
        load(config)
    assert "table job_seekers" in str(caught.value) and name in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("keep", [4, 100, 0.5, -1])
def test_a_parquet_file_cut_short_is_an_error(tmp_path: Path, keep: float) -> None:
    config = write_tables(tmp_path)
    path = tmp_path / "jobs.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    with pytest.raises(DataError, match=r"cannot read '.*jobs.parquet'"):
        load(config)


def test_a_flipped_byte_in_parquet_is_never_a_raw_error(tmp_path: Path) -> None:
    config = write_tables(tmp_path)
    path = tmp_path / "jobs.parquet"
    data = path.read_bytes()
    n_errors = 0
    for i in range(0, len(data), 61):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :])
        try:
            load(config).close()
        except DataError:
            n_errors += 1
    assert n_errors > 0


def test_invalid_utf8_in_a_parquet_string_is_an_error_that_quotes_no_text(tmp_path: Path) -> None:
    offsets = pa.py_buffer((0).to_bytes(4, "little") + len(UTF8_SURROGATE).to_bytes(4, "little"))
    cv = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(UTF8_SURROGATE))
    seekers = pa.table({"job_seeker_id": ["s1"], "cv": cv, "updated_at": [day(0)]})
    with pytest.raises(DataError, match=r"job_seekers.parquet.*valid UTF-8") as caught:
        load(write_tables(tmp_path, {"job_seekers": seekers}))
    assert "abc" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("path", "message"),
    [("absent.parquet", "no file at"), ("none-*.parquet", "no file at"), (".", "is a folder"), ("a\0b", "no file at")],
)
def test_an_absent_file_is_named(tmp_path: Path, path: str, message: str) -> None:
    config = write_tables(tmp_path)
    with pytest.raises(DataError, match=message):
        load(config.model_copy(update={"jobs": TableConfig(path=str(tmp_path / path))}))


def test_missing_columns_are_named_with_the_key_to_set(tmp_path: Path) -> None:
    jobs = table_of("jobs", GOOD["jobs"]).rename_columns(["id", "text", "posted_at"])
    config = write_tables(tmp_path, {"jobs": jobs})
    message = r"table jobs: .*jobs.parquet' has no column 'job_id', 'jd'; wanted .*, found id, text, posted_at; "
    with pytest.raises(
        DataError, match=message + r'set `tables.jobs.columns: \{"job_id": "YOUR_COLUMN", "jd": "YOUR_COLUMN"\}`'
    ):
        load(config)
    mapped = TableConfig(path=config.jobs.path, columns={"job_id": "id", "jd": "text"})
    with load(config.model_copy(update={"jobs": mapped}), strict=True) as tables:
        assert [row[:3] for row in rows_of(tables, "jobs")] == GOOD["jobs"]
    unknown = TableConfig(path=config.jobs.path, columns={"title": "text"})
    with pytest.raises(DataError, match="maps 'title', but the columns of jobs are job_id, jd, posted_at"):
        load(config.model_copy(update={"jobs": unknown}))


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_their_column_names_are_quoted(tmp_path: Path, suffix: str) -> None:
    names = ['id"; DROP TABLE jobs; --', "jd's", "select", "job_id", "cut", "filename"]
    jobs = table_of("jobs", GOOD["jobs"])
    for extra in names[3:]:
        jobs = jobs.append_column(extra, pa.array(["x", "y"]))
    pq.write_table(jobs.rename_columns(names), tmp_path / "theirs.parquet")
    duckdb.execute(f"COPY (FROM '{tmp_path}/theirs.parquet') TO '{tmp_path}/theirs.csv'")
    mapped = TableConfig(
        path=str(tmp_path / f"theirs.{suffix}"), columns=dict(zip(["job_id", "jd", "posted_at"], names, strict=False))
    )
    with load(write_tables(tmp_path).model_copy(update={"jobs": mapped}), strict=True) as tables:
        assert [row[:3] for row in rows_of(tables, "jobs")] == GOOD["jobs"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_glob_is_read_in_name_order_and_rows_are_counted_per_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "parts").mkdir()
    parts = [[("j1", "first", day(0))], [("j1", "last", day(0)), (None, "jd", day(0)), ("j2", "jd", day(0))]]
    for i, rows in enumerate(parts):
        path = tmp_path / "parts" / f"part-{i}.parquet"
        pq.write_table(table_of("jobs", rows), path)
        if suffix == "csv":
            duckdb.execute(f"COPY (FROM '{path}') TO '{path.with_suffix('.csv')}'")
    config = write_tables(tmp_path).model_copy(
        update={"jobs": TableConfig(path=str(tmp_path / "parts" / f"part-*.{suffix}"))}
    )
    with load(config) as tables:
        assert [row[:2] for row in rows_of(tables, "jobs")] == [("j1", "last"), ("j2", "jd")]
        found = [(Path(r.file or "").name, r.row, r.reason) for r in tables.report.rejections]
        assert found == [(f"part-0.{suffix}", 1, "duplicate"), (f"part-1.{suffix}", 2, "null_id")]


def test_csv_files_of_one_glob_may_have_other_columns_and_another_order(tmp_path: Path) -> None:
    (tmp_path / "p1.csv").write_text(HEADER + "s1,first,2020-01-01\n")
    (tmp_path / "p2.csv").write_text(",cv,job_seeker_id,note,updated_at,note\n0,second,s2,x,2020-01-02,y\n")
    config = write_tables(tmp_path).model_copy(update={"job_seekers": TableConfig(path=str(tmp_path / "p*.csv"))})
    with load(config) as tables:
        assert [row[:3] for row in rows_of(tables, "job_seekers")] == [
            ("s1", "first", day(0)),
            ("s2", "second", day(1)),
        ]


def test_a_file_name_with_glob_characters_is_taken_literally(tmp_path: Path) -> None:
    folder = tmp_path / "it's [1]*"
    folder.mkdir()
    with load(write_tables(folder), strict=True) as tables:
        assert tables.report.tables["jobs"].n_kept == 2


def database(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE jobs AS SELECT 'j1' AS job_id, 'from jobs' AS jd, now() AS posted_at")
        connection.execute(
            "CREATE TABLE postings AS SELECT i AS number, 'jd ' || i AS jd, TIMESTAMP '2020-01-02' AS since "
            "FROM range(1, 4) t(i)"
        )
    return path


QUERY = "SELECT 'j' || number AS job_id, jd, since AS posted_at FROM postings ORDER BY number; -- all"


def test_a_query_reads_a_database_and_leaves_it_alone(tmp_path: Path) -> None:
    path = database(tmp_path)
    before = path.read_bytes()
    jobs = TableConfig(query=QUERY, database=str(path))
    with load(write_tables(tmp_path).model_copy(update={"jobs": jobs})) as tables:
        assert [row[:2] for row in rows_of(tables, "jobs")] == [("j1", "jd 1"), ("j2", "jd 2"), ("j3", "jd 3")]
        assert [note.code for note in tables.report.notes] == ["naive_timestamps"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 1; SELECT 2", "should be one SELECT"),
        ("DROP TABLE postings", "should be one SELECT"),
        ("", "should be one SELECT"),
        ("SELEC 1", "cannot read the query on .*syntax error"),
        ("SELECT * FROM absent", "cannot read the query on .*absent does not exist"),
        ("SELECT 1 AS x", "the query on .* has no column 'job_id'"),
        ("SELECT 'j' AS job_id, error('x')::VARCHAR AS jd, now() AS posted_at", "cannot read the query on"),
    ],
)
def test_a_wrong_query_is_an_error(tmp_path: Path, query: str, message: str) -> None:
    jobs = TableConfig(query=query, database=str(database(tmp_path)))
    with pytest.raises(DataError, match=message):
        load(write_tables(tmp_path).model_copy(update={"jobs": jobs}))


def test_an_absent_or_foreign_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("not a database" * 1000)
    for name in ("absent.duckdb", "text.duckdb"):
        jobs = TableConfig(query=QUERY, database=str(tmp_path / name))
        with pytest.raises(DataError, match=name):
            load(write_tables(tmp_path).model_copy(update={"jobs": jobs}))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    tables = load(write_tables(tmp_path))
    assert len(list(temporary.iterdir())) == 1
    tables.close()
    tables.close()  # twice is harmless
    with pytest.raises(DataError):
        load(TablesConfig(**{name: TableConfig(path="absent.csv") for name in GOOD}))
    with pytest.raises(RejectedRowsError):
        load(write_tables(tmp_path, add("jobs", (None, "jd", day(0)))), strict=True)
    assert list(temporary.iterdir()) == []


def test_foreign_text_in_messages_is_short_and_printable() -> None:
    assert printable("plain é") == "plain é"
    assert printable("a\n\x1b[31m\u202eb") == "a\\n\\x1b[31m\\u202eb"
    assert printable("x" * 81) == "x" * 80 + "…"


def test_dates_in_parquet_are_midnight(tmp_path: Path) -> None:
    seekers = pa.table({"job_seeker_id": ["s1"], "cv": ["cv"], "updated_at": [date(2020, 1, 3)]})
    with load(write_tables(tmp_path, {"job_seekers": seekers})) as tables:
        assert rows_of(tables, "job_seekers")[0][2] == day(2)


def test_duckdb_draws_no_progress_bar_on_standard_output(tmp_path: Path) -> None:
    query = "SELECT current_setting('enable_progress_bar')"
    with load(write_tables(tmp_path)) as tables, connected() as connection:
        assert tables.connection.execute(query).fetchone() == (False,)
        assert connection.execute(query).fetchone() == (False,)
