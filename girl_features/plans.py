"""What the store still lacks, worked out in DuckDB: one plan table per kind of row, read back in chunks.

Which CV versions get a row: the newest one known when the generator's training ended (`trained_until`),
and every later one. Older versions are the right answer for no decision the feature may be used on. A
decision made at that very instant needs the CV before it, though it has no generated JD yet: so for the vectors
of CVs the instant before counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from girl_features.contract import FeatureContract
from girl_features.data import Tables
from girl_features.schema import CVVersion
from girl_features.store.parts import PartsStore


class JobVersion(NamedTuple):
    """One job as it goes to the encoder."""

    job_id: str
    jd: str
    known_at: datetime
    jd_hash: str


def plan_generation(tables: Tables, contract: FeatureContract, store: PartsStore) -> int:
    """Fill the temporary table `generation_plan` with the CV versions without a row; returns how many."""
    connection = tables.connection
    _wanted_cvs(connection, "generation_plan", contract.trained_until)
    for view in ("generated_jds", "failures"):
        if (relation := store.scan(view, contract.fingerprint)) is not None:
            connection.execute(
                f"""DELETE FROM generation_plan WHERE (job_seeker_id, updated_at, cv_hash) IN
                (SELECT job_seeker_id, updated_at, cv_hash FROM {relation})"""
            )
    return _count(connection, "generation_plan")


def plan_cv_vectors(tables: Tables, contract: FeatureContract, store: PartsStore) -> int:
    """Fill `cv_vector_plan` with the CV versions that have no vector of the contract's encoder.

    Blank CVs get one too (of the empty text), so that every decision has its CV's vector.
    """
    connection = tables.connection
    _wanted_cvs(connection, "cv_vector_plan", contract.trained_until - timedelta(microseconds=1))
    if (relation := store.scan("cv_vectors", contract.encoder.fingerprint)) is not None:
        connection.execute(
            f"""DELETE FROM cv_vector_plan WHERE (job_seeker_id, updated_at, cv_hash) IN
            (SELECT job_seeker_id, event_timestamp, cv_hash FROM {relation})"""
        )
    return _count(connection, "cv_vector_plan")


def plan_jd_vectors(tables: Tables, contract: FeatureContract, store: PartsStore) -> int:
    """Fill `jd_vector_plan` with the jobs that have no vector of the contract's encoder."""
    connection = tables.connection
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE jd_vector_plan AS
        SELECT job_id, known_at, left(sha256(jd), 16) AS jd_hash, length(jd) AS n_characters FROM jobs"""
    )
    if (relation := store.scan("jd_vectors", contract.encoder.fingerprint)) is not None:
        connection.execute(
            f"""DELETE FROM jd_vector_plan WHERE (job_id, known_at, jd_hash) IN
            (SELECT job_id, event_timestamp, jd_hash FROM {relation})"""
        )
    return _count(connection, "jd_vector_plan")


def planned_cvs(tables: Tables, plan: str, chunk_size: int) -> Iterator[list[CVVersion]]:
    """The CV versions of table `plan` with their texts, similar lengths together: batches pad little."""
    query = f"""SELECT job_seeker_id, cv, updated_at, cv_hash FROM {plan}
        JOIN job_seekers USING (job_seeker_id, updated_at, cv_hash)
        ORDER BY n_characters, job_seeker_id, updated_at"""
    for rows in _chunks(tables.connection, query, chunk_size):
        yield [CVVersion(*row) for row in rows]


def planned_jobs(tables: Tables, chunk_size: int) -> Iterator[list[JobVersion]]:
    """The jobs of `jd_vector_plan` with their texts, similar lengths together."""
    query = """SELECT job_id, jd, jobs.known_at, jd_hash FROM jd_vector_plan JOIN jobs USING (job_id)
        ORDER BY n_characters, job_id"""
    for rows in _chunks(tables.connection, query, chunk_size):
        yield [JobVersion(*row) for row in rows]


def _wanted_cvs(connection: Any, plan: str, trained_until: datetime) -> None:
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE {plan} AS
        SELECT job_seeker_id, updated_at, cv_hash, length(cv) AS n_characters FROM (
            SELECT *, lead(updated_at) OVER (PARTITION BY job_seeker_id ORDER BY updated_at) AS next_at
            FROM job_seekers
        ) WHERE next_at IS NULL OR next_at > $trained_until
        """,
        {"trained_until": trained_until},
    )


def _chunks(connection: Any, query: str, chunk_size: int) -> Iterator[list[tuple[Any, ...]]]:
    result = connection.execute(query)
    while rows := result.fetchmany(chunk_size):
        yield rows


def _count(connection: Any, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
