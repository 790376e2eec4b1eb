"""Rejection of rows that cannot be used: by the checks of single rows, as duplicates, or without their seeker or job.

Each SELECT here returns rows to reject: their rowid, reason and detail.
"""

from __future__ import annotations

import duckdb

from girl_features.input.checks import ID_COLUMNS
from girl_features.input.report import MAX_LISTED, Rejection
from girl_features.input.sources import printable
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID, POSTED_AT, SOURCE_FILE, UPDATED_AT

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


def create_rejections(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the empty table of rejected rows."""
    connection.execute(
        'CREATE TABLE rejections (table_name VARCHAR, file VARCHAR, "row" BIGINT, id VARCHAR, '
        "reason VARCHAR, detail VARCHAR, source_rowid BIGINT)"
    )


def reject_rows(connection: duckdb.DuckDBPyConnection, table: str, resolve: bool) -> dict[str, int]:
    """Move the bad rows of `table` to `rejections`, and return their number for each reason.

    With `resolve`, decisions without their seeker or job are bad too; the other two tables are there.
    """
    _insert(connection, table, f"SELECT rowid, problem.reason, problem.detail FROM {table} WHERE problem IS NOT NULL")
    _insert(connection, table, _duplicates_sql(table))
    if resolve:
        _insert(connection, table, _UNRESOLVED)
    # deleted last, because rowids are valid only until rows are deleted
    rejected = f"FROM rejections WHERE table_name = '{table}'"
    connection.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT source_rowid {rejected})")
    return dict(connection.execute(f"SELECT reason, count(*) {rejected} GROUP BY 1 ORDER BY 1").fetchall())


def listed_rejections(connection: duckdb.DuckDBPyConnection) -> list[Rejection]:
    """Return the first MAX_LISTED rejections of each table and reason."""
    rows = connection.execute(
        f"""
        SELECT table_name, file, "row", id, reason, detail FROM rejections
        QUALIFY row_number() OVER (PARTITION BY table_name, reason ORDER BY source_rowid) <= {MAX_LISTED}
        ORDER BY list_position(['job_seekers', 'jobs', 'interactions'], table_name), source_rowid
        """
    ).fetchall()
    return [
        Rejection(table, file, row, printable(key), reason, printable(detail, 200))
        for table, file, row, key, reason, detail in rows
    ]


def _duplicates_sql(table: str) -> str:
    if table == "job_seekers":
        keys, newest_first = f"{JOB_SEEKER_ID}, {UPDATED_AT}", "rowid DESC"
        detail = f"a later row has the same {JOB_SEEKER_ID} and {UPDATED_AT}"
    elif table == "jobs":
        keys, newest_first = JOB_ID, f"{POSTED_AT} DESC, rowid DESC"
        detail = f"a row posted later, or further down, has the same {JOB_ID}"
    else:
        keys, newest_first = f"{JOB_SEEKER_ID}, {JOB_ID}, {DECIDED_AT}", "rowid DESC"
        detail = f"a later row has the same {JOB_SEEKER_ID}, {JOB_ID} and {DECIDED_AT}"
    return f"""
        SELECT rowid AS bad_rowid, 'duplicate' AS reason, '{detail}' AS detail
        FROM {table} WHERE problem IS NULL
        QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {newest_first}) > 1
    """


def _insert(connection: duckdb.DuckDBPyConnection, table: str, bad_rows_sql: str) -> None:
    """Add the selected rows of `table` to `rejections`, with their row numbers within their file."""
    ids = " || ' / ' || ".join(f"coalesce(left({column}, 100), '(null)')" for column in ID_COLUMNS[table])
    connection.execute(
        f"""
        INSERT INTO rejections
        SELECT '{table}', {SOURCE_FILE}, bad_rowid - first_rowid + 1, {ids}, reason, detail, bad_rowid
        FROM ({bad_rows_sql}) AS bad(bad_rowid, reason, detail) JOIN {table} ON {table}.rowid = bad_rowid
        JOIN (SELECT {SOURCE_FILE} AS file, min(rowid) AS first_rowid FROM {table} GROUP BY ALL) AS files
          ON {SOURCE_FILE} IS NOT DISTINCT FROM files.file
        """
    )
