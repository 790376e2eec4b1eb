"""Find the rows that the store lacks, in DuckDB: one plan table for each kind of row, read back in chunks.

A CV version gets a generated JD if it is the newest one known when the generator's training ended (`trained_until`),
or a later one. No decision that the feature may be used on needs an older version. For the vectors of CVs the limit is
one microsecond earlier: a decision made exactly at `trained_until` has no generated JD, but it needs the vector of the
CV before it.

A plan holds keys and hashes. Texts are read chunk by chunk, so an unchanged CV costs no more than its hash.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar

import duckdb

from girl_features.contract import FeatureContract
from girl_features.encoder import read_characters
from girl_features.errors import StoreError
from girl_features.input.tables import Tables
from girl_features.schema import JOB_SEEKER_ID, CVVersion
from girl_features.sql import parquet_relation
from girl_features.store.parts import PartsStore, contract_parts
from girl_features.store.parts.part_files import is_intact, without_damaged
from girl_features.store.parts.rows import CV_VECTORS, FAILURES, GENERATED_JDS, JD_VECTORS, VIEWS
from girl_features.store.parts.tombstones import Tombstones

T = TypeVar("T")
Chunks: TypeAlias = Generator[list[T], None, None]  # closed after use, as it holds a connection

BLOCK_CHUNKS = 16  # number of chunks whose texts are sorted by length together
BLOCK_CHARACTERS = 20_000_000  # a block with more characters than this is sorted early
FETCHED_ROWS = 64  # rows fetched from DuckDB at a time


class JobVersion(NamedTuple):
    """One job, as the encoder gets it."""

    job_id: str
    jd: str
    known_at: datetime
    jd_hash: str


class GenerationPlan(NamedTuple):
    """Counts of the CV versions that a contract wants. Each version is counted once."""

    n_new: int  # of seekers without a row
    n_changed: int  # of seekers who have a row of another version
    n_unchanged: int  # have their JD
    n_failed_before: int  # no JD was fit to store; tried again only if asked for
    n_no_cv: int  # blank; never tried
    n_planned: int  # CVs to generate for, and blank ones to record

    @property
    def n_wanted(self) -> int:
        """Number of all CV versions that the contract wants."""
        return self.n_new + self.n_changed + self.n_unchanged + self.n_failed_before + self.n_no_cv


@contextmanager
def planning_errors() -> Iterator[None]:
    """Turn an error of DuckDB in the block into a StoreError that says what to do."""
    try:
        yield
    except duckdb.Error as error:
        raise StoreError(
            f"DuckDB cannot work out which rows are missing ({error}); make room in the temporary folder, or name "
            f"another with TMPDIR, then run the same command again: it resumes"
        ) from error


def set_aside_damaged(contract: FeatureContract, store: PartsStore) -> int:
    """Set aside the damaged parts of `contract`, and return their number. Their rows are then made again."""
    n_damaged = 0
    for view, fingerprint in contract_parts(contract):
        paths = store.part_paths(view, fingerprint)
        n_damaged += len(paths) - len(without_damaged(paths))
    return n_damaged


def plan_generation(
    tables: Tables, contract: FeatureContract, store: PartsStore, *, retry_failed: bool = False
) -> GenerationPlan:
    """Fill table `generation_plan` with the CV versions to generate for, and count all versions by their state.

    Args:
        tables: the clean input tables; the plan becomes a table beside them.
        contract: of the generated JDs.
        store: tells which of them are made.
        retry_failed: plan CVs that failed in earlier runs too. They are drawn with seeds that were not used before.
    """
    connection = tables.connection
    fill_wanted_cvs(connection, "wanted_cvs", contract.trained_until, store.erased)
    made = _rows_of(connection, store, GENERATED_JDS, contract.fingerprint)
    failed = _rows_of(connection, store, FAILURES, contract.fingerprint)
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE generation_plan AS
        SELECT wanted_cvs.*, coalesce(failed.n, 0)::INTEGER AS n_failures, CASE
            WHEN made.cv_hash IS NOT NULL THEN 'unchanged'
            WHEN n_characters = 0 THEN 'no_cv'
            WHEN failed.n IS NOT NULL THEN 'failed_before'
            WHEN job_seeker_id IN (
                SELECT job_seeker_id FROM {made} UNION ALL SELECT job_seeker_id FROM {failed}
            ) THEN 'changed' ELSE 'new' END AS state
        FROM wanted_cvs
        LEFT JOIN (SELECT DISTINCT job_seeker_id, updated_at, cv_hash FROM {made}) AS made
            USING (job_seeker_id, updated_at, cv_hash)
        LEFT JOIN (SELECT job_seeker_id, updated_at, cv_hash, count(*) AS n FROM {failed} GROUP BY ALL)
            AS failed USING (job_seeker_id, updated_at, cv_hash)
        """
    )
    rows = connection.execute("SELECT state, count(*) FROM generation_plan GROUP BY 1").fetchall()
    connection.execute(
        f"""DELETE FROM generation_plan WHERE state = 'unchanged' OR (state = 'no_cv' AND n_failures > 0)
        OR (state = 'failed_before' AND NOT {retry_failed})"""
    )
    states = {f"n_{state}": 0 for state in ("new", "changed", "unchanged", "failed_before", "no_cv")}
    states |= {f"n_{state}": n for state, n in rows}
    return GenerationPlan(**states, n_planned=_count(connection, "generation_plan"))


def plan_cv_vectors(tables: Tables, contract: FeatureContract, store: PartsStore) -> int:
    """Fill `cv_vector_plan` with the CV versions that have no vector of the contract's encoder, and count them.

    Blank CVs get the vector of the empty text, so that every decision has a CV vector.
    """
    connection = tables.connection
    just_before = contract.trained_until - timedelta(microseconds=1)
    fill_wanted_cvs(connection, "cv_vector_plan", just_before, store.erased)
    connection.execute("ALTER TABLE cv_vector_plan ADD COLUMN n_failures INTEGER DEFAULT 0")
    made = _rows_of(connection, store, CV_VECTORS, contract.encoder.fingerprint)
    connection.execute(
        f"""DELETE FROM cv_vector_plan WHERE (job_seeker_id, updated_at, cv_hash) IN
        (SELECT job_seeker_id, event_timestamp, cv_hash FROM {made})"""
    )
    return _count(connection, "cv_vector_plan")


def plan_jd_vectors(tables: Tables, contract: FeatureContract, store: PartsStore) -> int:
    """Fill `jd_vector_plan` with the jobs that have no vector of the contract's encoder, and count them."""
    connection = tables.connection
    connection.execute(
        """CREATE OR REPLACE TABLE jd_vector_plan AS
        SELECT job_id, known_at, left(sha256(jd), 16) AS jd_hash, length(jd) AS n_characters FROM jobs"""
    )
    made = _rows_of(connection, store, JD_VECTORS, contract.encoder.fingerprint)
    connection.execute(
        f"""DELETE FROM jd_vector_plan WHERE (job_id, known_at, jd_hash) IN
        (SELECT job_id, event_timestamp, jd_hash FROM {made})"""
    )
    return _count(connection, "jd_vector_plan")


def planned_cvs(tables: Tables, plan: str, chunk_size: int, max_tokens: int) -> Chunks[CVVersion]:
    """Yield the CV versions of table `plan` with their texts, in chunks of similar lengths, so that batches pad little.

    A very long text is cut after the characters that a model can need which reads `max_tokens` tokens.
    """
    query = f"""SELECT job_seeker_id, left(cv, {read_characters(max_tokens)}), updated_at, cv_hash, n_failures
        FROM {plan} JOIN job_seekers USING (job_seeker_id, updated_at, cv_hash)"""
    for rows in _chunks(tables.connection, query, chunk_size):
        yield [CVVersion(*row) for row in rows]


def planned_jobs(tables: Tables, chunk_size: int, max_tokens: int) -> Chunks[JobVersion]:
    """Yield the jobs of `jd_vector_plan` with their texts, chunked and cut as `planned_cvs` does."""
    query = f"""SELECT job_id, left(jd, {read_characters(max_tokens)}), jobs.known_at, jd_hash
        FROM jd_vector_plan JOIN jobs USING (job_id)"""
    for rows in _chunks(tables.connection, query, chunk_size):
        yield [JobVersion(*row) for row in rows]


def sample_cvs(tables: Tables, n: int, contract: FeatureContract) -> list[CVVersion]:
    """Return up to `n` CVs of `generation_plan` that are not blank, evenly spread over their lengths."""
    query = f"""
        WITH tried AS (
            SELECT *, row_number() OVER (ORDER BY n_characters, cv_hash, job_seeker_id) - 1 AS place,
                greatest(1, count(*) OVER () // {n}) AS step
            FROM generation_plan WHERE n_characters > 0
        )
        SELECT job_seeker_id, left(cv, {read_characters(contract.max_cv_tokens)}), updated_at, cv_hash, n_failures
        FROM tried JOIN job_seekers USING (job_seeker_id, updated_at, cv_hash)
        WHERE place % step = step // 2 ORDER BY place LIMIT {n}"""
    return [CVVersion(*row) for row in tables.connection.execute(query).fetchall()]


def _rows_of(connection: Any, store: PartsStore, view: str, fingerprint: str) -> str:
    """The rows of a view's sound parts as something to select from; no rows where there is no such part."""
    paths = [path for path in store.part_paths(view, fingerprint) if is_intact(path)]
    if paths:
        return parquet_relation(paths)
    connection.register(f"no_{view}", VIEWS[view].schema.empty_table())
    return f"no_{view}"


def fill_wanted_cvs(connection: Any, plan: str, trained_until: datetime, erased: Tombstones) -> int:
    """Fill table `plan` with the CV versions that get rows from a generator trained until then, and count them.

    Erased job seekers get no rows, even if the input tables still have their CVs.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TABLE {plan} AS
        SELECT * EXCLUDE next_at FROM (
            SELECT *, lead(updated_at) OVER (PARTITION BY job_seeker_id ORDER BY updated_at) AS next_at
            FROM (SELECT job_seeker_id, updated_at, cv_hash, length(cv) AS n_characters FROM job_seekers
                WHERE {erased.condition([JOB_SEEKER_ID])})
        ) WHERE next_at IS NULL OR next_at > $trained_until
        """,
        {"trained_until": trained_until},
    )
    return _count(connection, plan)


def _chunks(connection: Any, query: str, chunk_size: int) -> Chunks[tuple[Any, ...]]:
    """Yield the rows of `query`, whose second column is a text, in chunks of similar lengths.

    A cursor for each query lets several be read in turns. Rows are sorted block by block, as sorting all of them at
    once would hold all texts in memory.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET TimeZone = 'UTC'")  # a cursor does not inherit it
        result = cursor.execute(query)
        block: list[tuple[Any, ...]] = []
        n_characters = 0
        while rows := result.fetchmany(min(chunk_size, FETCHED_ROWS)):
            block += rows
            n_characters += sum(len(row[1]) for row in rows)
            if len(block) >= chunk_size * BLOCK_CHUNKS or n_characters >= BLOCK_CHARACTERS:
                block.sort(key=_length_and_key)
                while len(block) >= chunk_size:
                    yield block[:chunk_size]
                    del block[:chunk_size]
                if n_characters >= BLOCK_CHARACTERS and block:
                    yield block
                    block = []
                n_characters = sum(len(row[1]) for row in block)
        block.sort(key=_length_and_key)
        for start in range(0, len(block), chunk_size):
            yield block[start : start + chunk_size]


def _length_and_key(row: tuple[Any, ...]) -> tuple[int, str, datetime]:
    return len(row[1]), row[0], row[2]


def _count(connection: Any, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
