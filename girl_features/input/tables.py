"""The three input tables, read and checked in DuckDB. Clean rows are kept; bad rows are reported with a reason.

Rows are kept in a DuckDB file in a temporary folder (in TMPDIR), so that texts need not fit in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from girl_features.config import GirlConfig, TableConfig, TablesConfig
from girl_features.errors import DataError, RejectedRowsError
from girl_features.input.checks import BAD_MATCHED, FLAGS, TEXT_COLUMN, TIME_COLUMN
from girl_features.input.column_types import matched_advice
from girl_features.input.opening import open_sources
from girl_features.input.rejections import create_rejections, listed_rejections, reject_rows
from girl_features.input.report import CheckReport, Note, TableReport
from girl_features.input.sources import Source, copy_rows, printable
from girl_features.input.staging import checked_staging_sql
from girl_features.input.text_cleaning import MAX_TEXT_CHARS
from girl_features.progress import announce
from girl_features.schema import DECIDED_AT, JOB_ID, KNOWN_AT, MATCHED, POSTED_AT, SOURCE_FILE
from girl_features.sql import MEMORY_LIMIT, quote_identifier
from girl_features.store.parts import PartsStore
from girl_features.store.parts.tombstones import NO_TOMBSTONES, Tombstones

_CATALOG = "girl_tables"


class Tables:
    """The clean tables, until they are closed. A context manager.

    `connection` has these tables. Times are TIMESTAMPTZ, and the session is in UTC.

    - job_seekers(job_seeker_id, cv, updated_at, cv_hash), unique by id and time.
    - jobs(job_id, jd, posted_at, known_at), unique by id; `known_at` is `posted_at`, or just before the job's first
      decision if that is earlier.
    - interactions(job_seeker_id, job_id, matched, decided_at), each with its job and with a CV version strictly
      before `decided_at`.
    - rejections(table_name, file, row, id, reason, detail), all of them.

    `erased` lists the seekers whose features the store was told to forget. Their rows are in the tables, but the store
    has no vectors to join to them.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        report: CheckReport,
        folder: tempfile.TemporaryDirectory[str],
        erased: Tombstones = NO_TOMBSTONES,
    ) -> None:
        self.connection = connection
        self.report = report
        self.erased = erased
        self._folder = folder

    def close(self) -> None:
        """Close the connection and remove the temporary database."""
        with suppress(duckdb.ConnectionException):  # closed before
            self.connection.interrupt()  # after Ctrl-C a query goes on, and closing would wait for it
        self.connection.close()
        self._folder.cleanup()

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Inspection(NamedTuple):
    """The tables as far as they can be read, and the errors of those that cannot."""

    tables: Tables  # close it
    errors: list[DataError]  # one for each table that is not in `tables`, in their order


def open_tables(config: GirlConfig) -> Tables:
    """Read and check the three tables that `config` names. Close the result. See `load_tables` for errors."""
    announce("reading and checking the tables")
    clock_skew = timedelta(minutes=config.clock_skew_minutes)
    erased = PartsStore(config.store_dir).erased
    return load_tables(config.tables, now=datetime.now(UTC), clock_skew=clock_skew, strict=config.strict, erased=erased)


def inspect_tables(config: GirlConfig) -> Inspection:
    """Read and check those of the three tables that can be read, to report on them. `config.strict` has no effect.

    If job_seekers or jobs cannot be read, decisions without their seeker or job are not found.
    """
    announce("reading and checking the tables")
    errors: list[DataError] = []
    latest = datetime.now(UTC) + timedelta(minutes=config.clock_skew_minutes)
    return Inspection(_open(config.tables, latest, errors=errors), errors)


def load_tables(
    tables: TablesConfig,
    *,
    now: datetime,
    clock_skew: timedelta,
    strict: bool = False,
    erased: Tombstones = NO_TOMBSTONES,
) -> Tables:
    """Read and clean the three tables; leave out and report the rows that cannot be used.

    Texts lose control characters, become Unicode NFC and are cut to MAX_TEXT_CHARS. Times become UTC in
    microseconds; those without a zone are read in the table's `time_zone`, or as UTC. Of rows with the same key the
    newest is kept, then the last. A row with a blank CV is kept: its seeker exists, though no JD can be generated for
    it.

    Args:
        tables: locations of the tables.
        now: with a time zone; a row with a time after `now + clock_skew` is rejected.
        clock_skew: tolerance for clocks that run ahead.
        strict: any rejected row is an error.
        erased: seekers that the feature store has forgotten.

    Raises:
        DataError: a table cannot be read, lacks a column, or has one of the wrong type.
        RejectedRowsError: `strict` is set, and at least one row was rejected.
    """
    loaded = _open(tables, now.astimezone(UTC) + clock_skew, erased)
    if strict and loaded.report.n_rejected:
        loaded.close()
        raise RejectedRowsError(loaded.report.n_rejected_by_table)
    return loaded


def _open(
    tables: TablesConfig,
    latest: datetime,
    erased: Tombstones = NO_TOMBSTONES,
    errors: list[DataError] | None = None,
) -> Tables:
    """Load the tables into a temporary database. Errors of single tables go into `errors`, if it is given."""
    folder = tempfile.TemporaryDirectory(prefix="girl-tables-")
    with ExitStack() as on_error:
        on_error.callback(folder.cleanup)
        connection = on_error.enter_context(_connect(Path(folder.name)))
        on_error.callback(connection.interrupt)  # after Ctrl-C a query goes on, and closing would wait for it
        report = _load(connection, tables, latest, errors)
        on_error.pop_all()  # all went well: the caller closes them
    return Tables(connection, report, folder, erased)


def _connect(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        folder / f"{_CATALOG}.duckdb",
        config={
            "autoinstall_known_extensions": "false",  # the extensions in the wheel are enough; never download others
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(folder / "spill"),
        },
    )
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")  # the bar would go to stdout
    return connection


def _load(
    connection: duckdb.DuckDBPyConnection, tables: TablesConfig, latest: datetime, errors: list[DataError] | None
) -> CheckReport:
    create_rejections(connection)
    reports: dict[str, TableReport] = {}
    notes: list[Note] = []
    for table, config in tables:
        try:
            n_read = _stage(connection, table, config, latest)
        except DataError as error:
            if errors is None:
                raise
            errors.append(error)
            continue
        rejected = reject_rows(connection, table, resolve=table == "interactions" and not errors)
        notes += _notes(connection, table)
        for column in (SOURCE_FILE, "problem", "flags"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        reports[table] = TableReport(n_read, _count(connection, table), rejected)
    notes += [] if errors else _set_known_at(connection)
    report = CheckReport(reports, listed_rejections(connection), notes)
    connection.execute("ALTER TABLE rejections DROP COLUMN source_rowid")
    return report


def _stage(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, latest: datetime) -> int:
    """Read `table` with the checks of its rows, and return their number. Rowids are the input's row numbers from 0."""
    with open_sources(connection, table, config, home=_CATALOG) as sources:

        def rows_sql(source: Source) -> str:
            return checked_staging_sql(connection, source, config, latest)

        copy_rows(connection, sources, f"{_CATALOG}.main.{table}", rows_sql)
    _refuse_bad_matched(connection, sources, config)
    return _count(connection, table)


def _refuse_bad_matched(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], config: TableConfig) -> None:
    table = sources[0].table
    bad = connection.execute(
        f"""
        SELECT {SOURCE_FILE}, problem.detail, rowid + 1 - (
            SELECT min(rowid) FROM {table} AS same WHERE same.{SOURCE_FILE} IS NOT DISTINCT FROM bad.{SOURCE_FILE})
        FROM {table} AS bad WHERE problem.reason = '{BAD_MATCHED}' ORDER BY rowid LIMIT 1
        """
    ).fetchone()
    if bad is not None:
        file, value, row_number = bad
        connection.execute(f"DROP TABLE {table}")
        types = sources[0].disagreements.get(MATCHED)
        name = config.columns.get(MATCHED, MATCHED)
        start = (
            f"table {table}: column {quote_identifier(name)} of {sources[0].place if file is None else repr(file)} "
            f"holds {printable(value)!r} in row {row_number}, wanted only true/false or 1/0"
        )
        if types:
            raise DataError(f"{start}; the column is {types}: write these files again with one such type")
        raise DataError(f"{start}; {matched_advice(sources[0], config)}")


def _notes(connection: duckdb.DuckDBPyConnection, table: str) -> list[Note]:
    """Count the flags of the kept rows, and return a note for each flag that occurs."""
    text, time = TEXT_COLUMN.get(table, ""), TIME_COLUMN[table]
    messages = {
        "is_naive": ("naive_timestamps", f"{time} has no time zone; it was read as UTC"),
        "is_cut_time": ("nanoseconds", f"{time} is finer than microseconds; the rest was cut"),
        "is_truncated": ("truncated_text", f"{text} is longer than {MAX_TEXT_CHARS} characters; it was cut"),
        "is_changed": ("normalised_text", f"{text} lost control characters or became Unicode NFC"),
        "is_blank": ("blank_cv", f"{text} is blank: nothing can be generated for it"),
    }
    sums = ", ".join(f"count(*) FILTER (flags.{flag})" for flag in FLAGS)
    counts = connection.execute(f"SELECT {sums} FROM {table}").fetchone()
    assert counts is not None
    return [Note(table, *messages[flag], n) for flag, n in zip(FLAGS, counts, strict=True) if n]


def _set_known_at(connection: duckdb.DuckDBPyConnection) -> list[Note]:
    """Lower the `known_at` of a job to just before its first decision, if that is not after `posted_at`.

    This holds for jobs posted once. A job that was posted again keeps its time, because its text may have been written
    after the decision; such decisions were rejected.
    """
    n_early = _count(connection, f"interactions JOIN jobs USING ({JOB_ID}) WHERE {DECIDED_AT} <= {POSTED_AT}")
    connection.execute(
        f"""
        UPDATE jobs SET {KNOWN_AT} = first_decided_at - INTERVAL 1 MICROSECOND
        FROM (SELECT {JOB_ID}, min({DECIDED_AT}) AS first_decided_at FROM interactions GROUP BY 1) AS decided
        WHERE jobs.{JOB_ID} = decided.{JOB_ID} AND first_decided_at <= jobs.{POSTED_AT}
        """
    )
    message = f"{DECIDED_AT} is not after the job's {POSTED_AT}; it counts as known just before it was decided on"
    return [Note("interactions", "decided_before_posted", message, n_early)] if n_early else []


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert row is not None
    return int(row[0])
