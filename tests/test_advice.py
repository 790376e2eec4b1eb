"""Suggestions in errors on tables: each is taken out of the printed message, applied, and gives the right rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from girl_features.config import load_config
from girl_features.errors import DataError
from girl_features.input.tables import Tables, load_tables
from tests.input_tables import CLOCK_SKEW, GOOD, NOW, day, table_of, write_tables

N = 1000
KEYS = {"job_seekers": "job_seeker_id", "jobs": "job_id"}
DATABASE = "theirs.duckdb"


class Case(NamedTuple):
    """A column of a type that cannot be read, and the rows it stands for."""

    table: str
    column: str
    values: pa.Array
    expected: list[Any]
    choices: dict[str, str] | None = None  # placeholder in the suggestion -> what the user writes for it


def ids(values: pa.Array, expected: list[str]) -> Case:
    return Case("jobs", "job_id", values, expected)


NUMBERS = [(i * 7919) % 100_003 for i in range(N)]
SECONDS = [1_300_000_000 + 100_003 * i for i in range(N)]
TIMES = [datetime.fromtimestamp(second, UTC) for second in SECONDS]
MATCHES = {"YOUR_MATCHES": "'yes', 'accepted'", "YOUR_MISMATCHES": "'no'"}
WORDS = [("yes", "no", "accepted")[i % 3] for i in range(N)]
STARS = [i % 6 for i in range(N)]
TEXTS = [[f"part {i}", None, 'the "rest"'] for i in range(N)]

CASES = {
    "float64 ids": ids(pa.array(NUMBERS, pa.float64()), list(map(str, NUMBERS))),
    "float32 ids": ids(pa.array(range(N), pa.float32()), list(map(str, range(N)))),
    "negative float ids": ids(pa.array([-n for n in NUMBERS], pa.float64()), [str(-n) for n in NUMBERS]),
    "float ids near 2**53": ids(pa.array([2.0**53 - 1 - i for i in range(N)]), [str(2**53 - 1 - i) for i in range(N)]),
    "decimal ids": ids(pa.array(NUMBERS, pa.decimal128(20, 2)), list(map(str, NUMBERS))),
    "large decimal ids": ids(
        pa.array([10**30 + i for i in range(N)], pa.decimal128(38, 1)), [str(10**30 + i) for i in range(N)]
    ),
    "bytes ids": ids(pa.array([f"ü{i}".encode() for i in range(N)]), [f"ü{i}" for i in range(N)]),
    "seekers' ids": Case("job_seekers", "job_seeker_id", pa.array(NUMBERS, pa.float32()), list(map(str, NUMBERS))),
    "list texts": Case("job_seekers", "cv", pa.array(TEXTS), [f"{row[0]}\n{row[2]}" for row in TEXTS]),
    "float matched": Case(
        "interactions",
        "matched",
        pa.array([0.3, 1.0, 0.0, 2.0] * (N // 4)),
        [False, True, False, True] * (N // 4),
        {"YOUR_MATCHES": "1, 2", "YOUR_MISMATCHES": "0, .3::DOUBLE"},
    ),
    "text matched": Case("interactions", "matched", pa.array(WORDS), [word != "no" for word in WORDS], MATCHES),
    "category matched": Case("interactions", "matched", pa.array(WORDS), [word != "no" for word in WORDS], MATCHES),
    "stars": Case(
        "interactions",
        "matched",
        pa.array(STARS),
        [star > 3 for star in STARS],
        {"YOUR_MATCHES": "4, 5", "YOUR_MISMATCHES": "0, 1, 2, 3"},
    ),
    "csv matched": Case("interactions", "matched", pa.array(WORDS), [word != "no" for word in WORDS], MATCHES),
}
for _unit, _scale in {"epoch_s": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}.items():
    CASES[_unit] = Case("jobs", "posted_at", pa.array([second * _scale for second in SECONDS]), TIMES)
CASES["float epoch_s"] = Case("jobs", "posted_at", pa.array(SECONDS, pa.float64()), TIMES)
CASES["decimal epoch_ms"] = Case(
    "jobs", "posted_at", pa.array([s * 1000 for s in SECONDS], pa.decimal128(20, 3)), TIMES
)

NAMES = cycle(
    [
        "plain",
        'a "b"',
        "it's",
        "a: b",
        "x #y",
        "naïve [1]",
        "two  spaces",
        "`tick`",
        "{a}",
        "- %Y & *",
        "back\\slash",
        "SELECT",
    ]
)


def wide(case: Case) -> pa.Table:
    """The table of a case with N rows, in which all other columns are good."""
    first = GOOD[case.table][0]
    n = len(case.values)
    table = table_of(case.table, [first] * n)
    for column in (KEYS.get(case.table), "decided_at"):
        if column is None or column not in table.column_names or column == case.column:
            continue
        values = [f"{i}" for i in range(n)] if column != "decided_at" else [day(5 + i / 1000) for i in range(n)]
        table = table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))
    return table.set_column(table.column_names.index(case.column), case.column, case.values)


def as_path(folder: Path, table: pa.Table) -> dict[str, Any]:
    pq.write_table(table, folder / "rows.parquet")
    return {"path": "rows.parquet"}


def as_odd_path(folder: Path, table: pa.Table) -> dict[str, Any]:
    inner = folder / 'it\'s [1]: a "b" #c `d`'
    inner.mkdir()
    pq.write_table(table, inner / "rows*.parquet")
    return {"path": f"{inner}/rows*.parquet"}


def as_glob(folder: Path, table: pa.Table) -> dict[str, Any]:
    for i in range(2):
        (folder / f"it's {i}=x").mkdir()
        half = table.num_rows // 2
        pq.write_table(table.slice(i * half, half), folder / f"it's {i}=x" / "rows.parquet")
    return {"path": "it's *=x/*.parquet"}


def as_variable(folder: Path, table: pa.Table) -> dict[str, Any]:
    as_odd_path(folder, table)
    return {"path": "${GIRL_TEST_DATA}/*/rows[*].parquet"}


def as_query(folder: Path, table: pa.Table) -> dict[str, Any]:
    pq.write_table(table, folder / "rows.parquet")
    return {"query": f"SELECT * FROM '{folder}/rows.parquet' -- all; of them\n;  "}


def as_database(folder: Path, table: pa.Table) -> dict[str, Any]:
    with duckdb.connect(folder / DATABASE) as connection:
        connection.register("given", table)
        connection.execute('CREATE TABLE "their rows" AS FROM given')
    return {"query": 'SELECT * FROM "their rows"', "database": DATABASE}


def as_csv(folder: Path, table: pa.Table) -> dict[str, Any]:
    duckdb.from_arrow(table).write_csv(str(folder / "rows.csv"))
    return {"path": "rows.csv"}


SOURCES: dict[str, Callable[[Path, pa.Table], dict[str, Any]]] = {
    "path": as_path,
    "odd path": as_odd_path,
    "glob": as_glob,
    "variable": as_variable,
    "query": as_query,
    "database": as_database,
}


class Workspace:
    """A girl.yaml with three tables, one of which the test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, Any] = {
            name: {"path": table.path} for name, table in write_tables(folder, {"interactions": []})
        }

    def open(self) -> Tables:
        path = self.folder / "girl.yaml"
        path.write_text(yaml.safe_dump({"tables": self.tables}, allow_unicode=True))
        return load_tables(load_config(path).tables, now=NOW, clock_skew=CLOCK_SKEW)

    def error(self) -> str:
        with pytest.raises(DataError) as caught:
            self.open()
        return str(caught.value)

    def apply(self, message: str, choices: dict[str, str] | None = None) -> None:
        """Do to girl.yaml what the message says, as a reader would."""
        for word, choice in (choices or {}).items():
            message = message.replace(word, choice)
        by_query = re.search(r"set this in `tables\.(\w+)`, in place of ([`\w ]+): (query: .*)\Z", message)
        if by_query:
            settings = self.tables[by_query[1]]
            for name in re.findall(r"`(\w+)`", by_query[2]):
                del settings[name]
            settings.update(in_both_styles(by_query[3]))
            return
        setting = re.search(r"set `tables\.(\w+)\.(\w+: .*)`\Z", message)
        assert setting, message
        self.tables[setting[1]].update(in_both_styles(setting[2]))


def in_both_styles(setting: str) -> Any:
    """Parse a printed setting as a line of its own, and beside others between braces; both must mean the same."""
    block: Any = yaml.safe_load(setting)
    assert yaml.safe_load(f"{{a: 1, {setting}, b: 2}}") == {"a": 1, **block, "b": 2}
    return block


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("GIRL_TEST_DATA", str(tmp_path))
    return Workspace(tmp_path)


def prepare(workspace: Workspace, case: Case, source: str, rename: bool) -> None:
    """Write the table of a case; with `rename`, under names that need quoting."""
    table, mapping = wide(case), {}
    if case.table == "interactions":  # whose rows need their seeker and job
        for name in KEYS:
            workspace.tables[name] = {"path": f"{workspace.folder}/{name}.parquet"}
    if rename:
        mapping = {column: f"{next(NAMES)} {i}" for i, column in enumerate(table.column_names)}
        table = table.rename_columns(list(mapping.values()))
    make = as_csv if source == "csv" else SOURCES[source]
    workspace.tables[case.table] = {**make(workspace.folder, table), **({"columns": mapping} if mapping else {})}


def rows(tables: Tables, case: Case) -> list[Any]:
    order = {"interactions": "decided_at"}.get(case.table, "rowid")
    found = tables.connection.execute(f"SELECT {case.column} FROM {case.table} ORDER BY {order}").fetchall()
    assert tables.report.n_rejected == 0, tables.report.rejections[0]
    return [value.astimezone(UTC) if isinstance(value, datetime) else value for (value,) in found]


PAIRS = [(name, source) for name in CASES if name != "csv matched" for source in SOURCES] + [("csv matched", "csv")]


@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_the_setting_that_a_message_suggests_gives_the_right_rows(workspace: Workspace, name: str, source: str) -> None:
    case = CASES[name]
    if name == "category matched":
        case = case._replace(values=case.values.dictionary_encode())
    prepare(workspace, case, source, rename=source != "path")
    workspace.apply(workspace.error(), case.choices)
    with workspace.open() as tables:
        assert rows(tables, case) == case.expected
        assert {note.code for note in tables.report.notes} <= {"decided_before_posted"}


def test_a_query_with_an_enum_of_outcomes_gets_a_case(workspace: Workspace) -> None:
    case = CASES["text matched"]
    prepare(workspace, case, "query", False)
    query = workspace.tables["interactions"]["query"].split(" -- ")[0]
    enum = "SELECT * REPLACE (matched::ENUM ('yes', 'no', 'accepted') AS matched)"
    workspace.tables["interactions"]["query"] = query.replace("SELECT *", enum)
    workspace.apply(workspace.error(), case.choices)
    with workspace.open() as tables:
        assert rows(tables, case) == case.expected


EXACT = [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.decimal128(20, 0), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", EXACT, ids=str)
def test_ids_with_one_exact_text_need_no_suggestion(workspace: Workspace, kind: pa.DataType) -> None:
    values = pa.array([0, 5, 100]) if not pa.types.is_dictionary(kind) else pa.array(["0", "5", "100"])
    case = ids(values.cast(kind), ["0", "5", "100"])
    prepare(workspace, case, "path", False)
    with workspace.open() as tables:
        assert rows(tables, case) == case.expected


REFUSED = {
    "fractions": ids(pa.array([1.5, 2.0]), []),
    "inexact": ids(pa.array([2.0**53, 1.0]), []),
    "inexact float32": ids(pa.array([2.0**24, 1.0], pa.float32()), []),
    "nan": ids(pa.array([float("nan"), 1.0]), []),
    "infinite": ids(pa.array([float("inf"), 1.0]), []),
    "decimal fractions": ids(pa.array([1, 2], pa.decimal128(20, 2)), []),
    "bytes": ids(pa.array([b"\xff\xfe", b"a"]), []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_query_is_suggested_where_no_cast_is_right(workspace: Workspace, name: str) -> None:
    case = REFUSED[name]
    if name == "decimal fractions":
        import decimal

        case = ids(pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.00")]), [])
    prepare(workspace, case, "path", False)
    message = workspace.error()
    assert "query:" not in message and "write the table again with ids as text" in message


ODD_TYPES = {
    "job_id": [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([True, False]),
        pa.array([day(0), day(1)]),
    ],
    "jd": [pa.array([1, 2]), pa.array([1.5, 2]), pa.array([{"a": "x"}, {"a": "y"}]), pa.array([[1], [2]])],
    "posted_at": [pa.array([True, False]), pa.array([[1], [2]])],
}


@pytest.mark.parametrize(
    ("column", "values"), [(column, values) for column, kinds in ODD_TYPES.items() for values in kinds]
)
def test_a_column_of_no_use_names_the_setting_for_another(workspace: Workspace, column: str, values: pa.Array) -> None:
    good = table_of("jobs", GOOD["jobs"])
    table = good.set_column(good.column_names.index(column), column, values).append_column("theirs", good[column])
    mapping = {name: f"my: {name}" for name in good.column_names if name != column}
    workspace.tables["jobs"] = {
        **as_path(workspace.folder, table.rename_columns([mapping.get(n, n) for n in table.column_names])),
        "columns": mapping,
    }
    message = workspace.error()
    assert "query:" not in message
    workspace.apply(message, {"YOUR_COLUMN": "theirs"})
    with workspace.open() as tables:
        assert [row[:3] for row in tables.connection.execute("FROM jobs ORDER BY job_id").fetchall()] == GOOD["jobs"]


@pytest.mark.parametrize("mapped", [False, True])
def test_the_mapping_that_a_missing_column_suggests_keeps_the_others(workspace: Workspace, mapped: bool) -> None:
    names = ["my 'id'" if mapped else "job_id", "theirs", "x: y" if mapped else "posted_at"]
    mapping = {"job_id": names[0], "posted_at": names[2]} if mapped else {}
    made = as_path(workspace.folder, table_of("jobs", GOOD["jobs"]).rename_columns(names))
    workspace.tables["jobs"] = {**made, **({"columns": mapping} if mapped else {})}
    workspace.apply(workspace.error(), {"YOUR_COLUMN": "theirs"})
    with workspace.open() as tables:
        assert tables.report.tables["jobs"].n_kept == 2


@pytest.mark.parametrize("values", [[10, 20], [1_300_000_000, 1_300_000_000_000], [0, 2**62]])
def test_a_unit_is_the_users_choice_where_the_numbers_do_not_tell_it(workspace: Workspace, values: list[Any]) -> None:
    case = Case("jobs", "posted_at", pa.array(values, pa.int64()), [])
    prepare(workspace, case, "path", False)
    settings = re.findall(r"`tables\.jobs\.(time_format: \w+)`", workspace.error())
    assert len(settings) == 4
    for setting in settings:
        workspace.tables["jobs"].update(yaml.safe_load(setting))
        with workspace.open() as tables:
            assert tables.report.tables["jobs"].n_read == 2


@pytest.mark.parametrize(
    ("place", "suffix"),
    [("", "parquet"), ("", "csv"), ("deep [1]/er", "parquet"), ("a/b", "csv.gz"), ("", "tsv"), ("", "pq")],
)
@pytest.mark.parametrize("folder", ["data", "it's [1]: #x", "{a}"])
def test_the_pattern_for_a_folder_finds_the_files_in_it(
    workspace: Workspace, folder: str, place: str, suffix: str
) -> None:
    inner = workspace.folder / folder / place
    inner.mkdir(parents=True)
    good = table_of("jobs", GOOD["jobs"])
    if suffix in ("parquet", "pq"):
        pq.write_table(good, inner / f"jobs.{suffix}")
    else:
        separator = "\t" if suffix == "tsv" else ","
        duckdb.from_arrow(good).write_csv(str(inner / f"jobs.{suffix}"), sep=separator)
    workspace.tables["jobs"] = {"path": f"{workspace.folder / folder}/"}
    message = workspace.error()
    setting = re.search(r"as in `(path: .*)`\Z", message)
    assert setting, message
    workspace.tables["jobs"] = in_both_styles(setting[1])
    with workspace.open() as tables:
        assert tables.report.tables["jobs"].n_kept == 2


def test_an_empty_folder_gets_no_pattern(workspace: Workspace) -> None:
    workspace.tables["jobs"] = {"path": str(workspace.folder / "empty")}
    (workspace.folder / "empty").mkdir()
    assert "it holds no file of a table" in workspace.error()


def test_the_setting_for_a_format_is_dropped_as_the_message_says(workspace: Workspace) -> None:
    workspace.tables["jobs"]["time_format"] = "%d.%m.%Y"
    setting = re.search(r"remove `tables\.(\w+)\.(\w+)`\Z", workspace.error())
    assert setting
    del workspace.tables[setting[1]][setting[2]]
    with workspace.open() as tables:
        assert tables.report.tables["jobs"].n_kept == 2


def two_parts(workspace: Workspace, first: pa.Table, second: pa.Table, pattern: str = "part*") -> None:
    """Write the interactions as two files."""
    for i, part in enumerate((first, second)):
        pq.write_table(part, workspace.folder / f"part{i}.parquet")
    workspace.tables["interactions"] = {"path": f"{workspace.folder}/{pattern}"}


def outcomes() -> pa.Table:
    good = table_of("interactions", GOOD["interactions"])
    return good.set_column(good.column_names.index("matched"), "matched", pa.array(["yes", "no"] * 9)[: len(good)])


@pytest.mark.parametrize("column", ["job_id", "decided_at"])
def test_no_query_is_suggested_for_files_of_several_types(workspace: Workspace, column: str) -> None:
    other: Any = pa.array([7, 8]) if column == "job_id" else pa.array([datetime(2020, 7, 1), None])
    table = outcomes()[:2]
    two_parts(workspace, table, table.set_column(table.column_names.index(column), column, other[: len(table)]))
    message = workspace.error()
    assert "query:" not in message and f"with one type of {column}, which is " in message


@pytest.mark.parametrize("extra", ["", "first", "second"])
def test_the_suggested_query_reads_a_pattern_without_an_ending(workspace: Workspace, extra: str) -> None:
    table = outcomes()
    wider = table.append_column("extra", pa.array([1] * len(table))).select([*reversed(table.column_names), "extra"])
    parts = [(wider if extra == name else table)[i : i + 1] for i, name in enumerate(("first", "second"))]
    two_parts(workspace, *parts)
    workspace.apply(workspace.error(), MATCHES)
    with workspace.open() as tables:
        assert tables.report.tables["interactions"].n_kept == 2


def test_the_suggested_query_reads_each_text_file_by_its_header_and_missing_values(workspace: Workspace) -> None:
    (workspace.folder / "part0").with_suffix(".csv").write_text(
        "job_seeker_id,job_id,matched,decided_at\ns1,j1,yes,2020-01-06T00:00:00Z\n\\N,j1,yes,2020-01-06T00:00:00Z\n"
    )
    (workspace.folder / "part1").with_suffix(".csv").write_text(
        "job_id,job_seeker_id,matched,decided_at\nj2,s1,no,2020-01-06T00:00:00Z\n"
    )
    workspace.tables["interactions"] = {"path": f"{workspace.folder}/part*"}
    workspace.apply(workspace.error(), MATCHES)
    with workspace.open() as tables:
        assert tables.report.tables["interactions"] == (3, 2, {"null_id": 1})


def test_no_query_is_suggested_for_csv_and_tsv_under_one_path(workspace: Workspace) -> None:
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = ["job_seeker_id,job_id,matched,decided_at", "s1,j1,yes,2020-01-06T00:00:00Z"]
        (workspace.folder / f"part{suffix}").write_text("\n".join(lines).replace(",", mark) + "\n")
    workspace.tables["interactions"] = {"path": f"{workspace.folder}/part*"}
    message = workspace.error()
    assert "query:" not in message and "all as TSV" in message


@pytest.mark.parametrize(
    ("delimiter", "suffix"),
    [(";", "csv"), ("\t", "csv"), ("|", "csv"), (";", "csv.gz"), (";", "tsv"), ("|", "tsv"), (",", "tsv")],
)
@pytest.mark.parametrize("quoting", [None, "csv"])
@pytest.mark.parametrize("rename", [False, True])
def test_the_query_for_another_delimiter_reads_the_file(
    workspace: Workspace, delimiter: str, suffix: str, quoting: str | None, rename: bool
) -> None:
    table = table_of("jobs", [("j1", 'a, b; c | "d"\t\n\\N e', day(0)), ("007", "", day(1)), ("j3", "x;y", day(2))])
    if rename:
        names = ["my id", "words, many", "day"]
        table = table.rename_columns(names)
    path = workspace.folder / f"it's [1].{suffix}"
    duckdb.from_arrow(table).write_csv(
        str(path), sep=delimiter, quotechar='"', compression="gzip" if "gz" in suffix else None
    )
    workspace.tables["jobs"] = {"path": str(path)} | ({"quoting": quoting} if quoting else {})
    message = workspace.error()
    if "holds a backslash" in message:  # how its texts are quoted is asked for first
        workspace.tables["jobs"]["quoting"] = "csv"
        message = workspace.error()
    assert "are separated by" in message
    workspace.apply(message)
    if rename:
        workspace.tables["jobs"]["columns"] = dict(zip(table_of("jobs", GOOD["jobs"]).column_names, names, strict=True))
    with workspace.open() as tables:
        found = tables.connection.execute("SELECT job_id, jd FROM jobs ORDER BY posted_at").fetchall()
        assert found == [("j1", 'a, b; c | "d"\t\n\\N e'), ("j3", "x;y")]
        assert tables.report.tables["jobs"].rejected == {"blank_jd": 1}


def test_files_of_several_delimiters_get_no_query(workspace: Workspace) -> None:
    for number, mark in enumerate(";|"):
        lines = ["job_id,jd,posted_at", "j1,x,2020-01-06T00:00:00Z"]
        (workspace.folder / f"part{number}.csv").write_text("\n".join(lines).replace(",", mark) + "\n")
    workspace.tables["jobs"] = {"path": f"{workspace.folder}/part*"}
    assert "query:" not in workspace.error()


def test_a_database_file_of_another_delimiter_gets_no_query(workspace: Workspace) -> None:
    (workspace.folder / "jobs.csv").write_text("job_id;jd;posted_at\nj1;x;2020-01-06\n")
    workspace.tables["jobs"] = {"path": f"{workspace.folder}/jobs.csv", "quoting": "none"}
    message = workspace.error()
    assert "separated by semicolons" in message and "query:" not in message
