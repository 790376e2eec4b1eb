"""The three input tables, read and checked in DuckDB: what comes out is clean, what does not has a reason.

Rows stay in a DuckDB file in a temporary folder (of TMPDIR), so that texts need not fit in memory.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

import duckdb

from girl_features.config import GirlConfig, TableConfig, TablesConfig
from girl_features.errors import DataError, RejectedRowsError
from girl_features.input.checks import (
    BAD_MATCHED,
    FLAGS,
    ID_COLUMNS,
    KNOWN_AT,
    MAX_TEXT_CHARS,
    TEXT_COLUMN,
    TIME_COLUMN,
    staging_sql,
)
from girl_features.input.report import MAX_LISTED, CheckReport, Note, Rejection, TableReport
from girl_features.input.sources import FILE_COLUMN, open_source, shown
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID, MATCHED, POSTED_AT, UPDATED_AT
from girl_features.sql import MEMORY_LIMIT
from girl_features.store.parts import PartsStore
from girl_features.store.parts.tombstones import NO_TOMBSTONES, Tombstones

_CATALOG = "girl_tables"


class Tables:
    """The clean tables, until closed. A context manager.

    `connection` holds job_seekers(job_seeker_id, cv, updated_at, cv_hash), unique by the id and time;
    jobs(job_id, jd, posted_at, known_at), unique by id, where `known_at` is the earlier of `posted_at` and
    the job's first decision; interactions(job_seeker_id, job_id, matched, decided_at), each with its job and
    with a CV version strictly before `decided_at`; and rejections(table_name, file, row, id, reason, detail),
    all of them. Times are TIMESTAMPTZ and the session is in UTC.

    `erased` says whose features the store was told to forget: their rows are here, but nothing can be joined to them.
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
        self.connection.close()
        self._folder.cleanup()

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_tables(config: GirlConfig) -> Tables:
    """Read and check the three tables that `config` names. Close the result. See `load_tables` for errors."""
    clock_skew = timedelta(minutes=config.clock_skew_minutes)
    erased = PartsStore(config.store_dir).erased
    return load_tables(config.tables, now=datetime.now(UTC), clock_skew=clock_skew, strict=config.strict, erased=erased)


def load_tables(
    tables: TablesConfig,
    *,
    now: datetime,
    clock_skew: timedelta,
    strict: bool = False,
    erased: Tombstones = NO_TOMBSTONES,
) -> Tables:
    """The three tables, cleaned; rows that cannot be used are left out and reported.

    Texts lose control characters, become Unicode NFC and are cut to MAX_TEXT_CHARS. Times become UTC in
    microseconds, those without a zone read as UTC. Of rows with one key the newest wins, then the last.
    A blank CV is kept: its seeker exists, though nothing can be generated for it.

    Args:
        tables: where the tables lie.
        now: with a time zone; times later than `now + clock_skew` are rejected.
        clock_skew: tolerance for clocks that run ahead.
        strict: take any rejected row as an error.
        erased: whom the feature store has forgotten.

    Raises:
        DataError: a table cannot be read, lacks a column, or has one of the wrong type.
        RejectedRowsError: `strict`, and at least one row was rejected.
    """
    latest = now.astimezone(UTC) + clock_skew
    folder = tempfile.TemporaryDirectory(prefix="girl-tables-")
    try:
        connection = _connect(Path(folder.name))
        try:
            report = _load(connection, tables, latest)
            if strict and report.n_rejected:
                n_tables = sum(1 for table in report.tables.values() if table.rejected)
                raise RejectedRowsError(report.n_rejected, n_tables)
        except BaseException:
            connection.close()
            raise
    except BaseException:
        folder.cleanup()
        raise
    return Tables(connection, report, folder, erased)


def _connect(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        folder / f"{_CATALOG}.duckdb",
        config={
            "autoinstall_known_extensions": "false",  # what the wheel bundles is enough; never download
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(folder / "spill"),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _load(connection: duckdb.DuckDBPyConnection, tables: TablesConfig, latest: datetime) -> CheckReport:
    connection.execute(
        'CREATE TABLE rejections (table_name VARCHAR, file VARCHAR, "row" BIGINT, id VARCHAR, '
        "reason VARCHAR, detail VARCHAR, source_rowid BIGINT)"
    )
    configs = {"job_seekers": tables.job_seekers, "jobs": tables.jobs, "interactions": tables.interactions}
    reports: dict[str, TableReport] = {}
    notes: list[Note] = []
    for table, config in configs.items():
        n_read = _stage(connection, table, config, latest)
        _reject(connection, table, _FAILED_CHECKS.format(table=table))
        _reject(connection, table, _DUPLICATES[table])
        if table == "interactions":
            _reject(connection, table, _UNRESOLVED)
        # rowids hold until rows are deleted, so deleting comes last
        connection.execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT source_rowid FROM rejections WHERE table_name = '{table}')"
        )
        notes += _notes(connection, table)
        for column in (FILE_COLUMN, "problem", "flags"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        reports[table] = _table_report(connection, table, n_read)
    notes += _set_known_at(connection)
    report = CheckReport(reports, _listed(connection), notes)
    connection.execute("ALTER TABLE rejections DROP COLUMN source_rowid")
    return report


def _stage(connection: duckdb.DuckDBPyConnection, table: str, config: TableConfig, latest: datetime) -> int:
    """Read `table` with its row checks; its rowids are the input's row numbers from 0. Returns the rows read.

    Raises:
        DataError: the source cannot be read, or `matched` holds something else than two values.
    """
    with open_source(connection, table, config, home=_CATALOG) as source:
        connection.execute(f"CREATE TABLE {_CATALOG}.main.{table} AS {staging_sql(source, latest)}")
    bad = connection.execute(
        f"SELECT rowid + 1, problem.detail FROM {table} WHERE problem.reason = '{BAD_MATCHED}' ORDER BY rowid LIMIT 1"
    ).fetchone()
    if bad is not None:
        raise DataError(
            f"table {table}: column {source.columns[MATCHED]} of {source.place} holds {shown(bad[1])!r} in row "
            f"{bad[0]}, wanted only true/false or 1/0; say in `tables.{table}.query` which values are a match"
        )
    return _count(connection, table)


# Each of these selects rows to reject: bad_rowid, reason, detail.
_FAILED_CHECKS = """
    SELECT rowid AS bad_rowid, problem.reason AS reason, problem.detail AS detail
    FROM {table} WHERE problem IS NOT NULL
"""


def _duplicates_sql(table: str, keys: str, newest_first: str, detail: str) -> str:
    return f"""
        SELECT rowid AS bad_rowid, 'duplicate' AS reason, '{detail}' AS detail
        FROM {table} WHERE problem IS NULL
        QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest_first}) > 1
    """


_DUPLICATES = {
    "job_seekers": _duplicates_sql(
        "job_seekers",
        f"{JOB_SEEKER_ID}, {UPDATED_AT}",
        "rowid DESC",
        f"a later row has the same {JOB_SEEKER_ID} and {UPDATED_AT}",
    ),
    "jobs": _duplicates_sql(
        "jobs",
        JOB_ID,
        f"{POSTED_AT} DESC, rowid DESC",
        f"a row posted later, or further down, has the same {JOB_ID}",
    ),
    "interactions": _duplicates_sql(
        "interactions",
        f"{JOB_SEEKER_ID}, {JOB_ID}, {DECIDED_AT}",
        "rowid DESC",
        f"a later row has the same {JOB_SEEKER_ID}, {JOB_ID} and {DECIDED_AT}",
    ),
}

_UNRESOLVED = f"""
    SELECT bad_rowid, reason, CASE reason
        WHEN 'no_seeker' THEN 'no usable row of job_seekers has this {JOB_SEEKER_ID}'
        WHEN 'no_job' THEN 'no usable row of jobs has this {JOB_ID}'
        WHEN 'no_earlier_jd' THEN 'the job was posted again at ' || {POSTED_AT}::VARCHAR
             || '; what it said at {DECIDED_AT} ' || {DECIDED_AT}::VARCHAR || ' is not known'
        ELSE 'the first CV is of ' || first_updated_at::VARCHAR || ', not before {DECIDED_AT} '
             || {DECIDED_AT}::VARCHAR
        END AS detail
    FROM (
        SELECT interactions.rowid AS bad_rowid, first_updated_at, {DECIDED_AT}, {POSTED_AT}, CASE
            WHEN first_updated_at IS NULL THEN 'no_seeker'
            WHEN posted.{JOB_ID} IS NULL THEN 'no_job'
            WHEN {DECIDED_AT} <= first_updated_at THEN 'no_earlier_cv'
            WHEN {DECIDED_AT} <= {POSTED_AT} AND left({JOB_ID}, 100) IN (SELECT id FROM rejections
                WHERE table_name = 'jobs' AND reason = 'duplicate') THEN 'no_earlier_jd'
            END AS reason
        FROM interactions
        LEFT JOIN (SELECT {JOB_SEEKER_ID}, min({UPDATED_AT}) AS first_updated_at FROM job_seekers GROUP BY 1)
            USING ({JOB_SEEKER_ID})
        LEFT JOIN (SELECT {JOB_ID}, {POSTED_AT} FROM jobs) posted USING ({JOB_ID})
        WHERE interactions.rowid NOT IN
            (SELECT source_rowid FROM rejections WHERE table_name = 'interactions')
    )
    WHERE reason IS NOT NULL
"""


def _reject(connection: duckdb.DuckDBPyConnection, table: str, bad_rows: str) -> None:
    """List `bad_rows` of `table`, numbered within their file."""
    ids = " || ' / ' || ".join(f"coalesce(left({column}, 100), '(null)')" for column in ID_COLUMNS[table])
    connection.execute(
        f"""
        INSERT INTO rejections
        SELECT '{table}', {FILE_COLUMN}, bad_rowid - first_rowid + 1, {ids}, reason, detail, bad_rowid
        FROM ({bad_rows}) JOIN {table} ON {table}.rowid = bad_rowid
        JOIN (SELECT {FILE_COLUMN} AS file, min(rowid) AS first_rowid FROM {table} GROUP BY ALL) AS files
          ON {FILE_COLUMN} IS NOT DISTINCT FROM files.file
        """
    )


def _notes(connection: duckdb.DuckDBPyConnection, table: str) -> list[Note]:
    """What to tell about the kept rows: the flags the row checks left, counted."""
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
    """Lower a job's `known_at`, set to `posted_at` so far, to just before its first decision where that is no later.

    The text of a job that was posted again is left at its own time: it may have been written after the decision.
    """
    n_early = connection.execute(
        f"SELECT count(*) FROM interactions JOIN jobs USING ({JOB_ID}) WHERE {DECIDED_AT} <= {POSTED_AT}"
    ).fetchone()
    connection.execute(
        f"""
        UPDATE jobs SET {KNOWN_AT} = first_decided_at - INTERVAL 1 MICROSECOND
        FROM (SELECT {JOB_ID}, min({DECIDED_AT}) AS first_decided_at FROM interactions GROUP BY 1) AS decided
        WHERE jobs.{JOB_ID} = decided.{JOB_ID} AND first_decided_at <= jobs.{POSTED_AT}
        """
    )
    assert n_early is not None
    message = (
        f"{DECIDED_AT} is not after the job's {POSTED_AT}; such a job counts as known just before it was decided on"
    )
    return [Note("interactions", "decided_before_posted", message, n_early[0])] if n_early[0] else []


def _table_report(connection: duckdb.DuckDBPyConnection, table: str, n_read: int) -> TableReport:
    reasons = connection.execute(
        "SELECT reason, count(*) FROM rejections WHERE table_name = $table GROUP BY 1 ORDER BY 1",
        {"table": table},
    ).fetchall()
    return TableReport(n_read, _count(connection, table), dict(reasons))


def _listed(connection: duckdb.DuckDBPyConnection) -> list[Rejection]:
    rows = connection.execute(
        f"""
        SELECT table_name, file, "row", id, reason, detail FROM rejections
        QUALIFY row_number() OVER (PARTITION BY table_name, reason ORDER BY source_rowid) <= {MAX_LISTED}
        ORDER BY list_position(['job_seekers', 'jobs', 'interactions'], table_name), source_rowid
        """
    ).fetchall()
    return [
        Rejection(table, file, row, shown(key), reason, shown(detail, 200))
        for table, file, row, key, reason, detail in rows
    ]


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
