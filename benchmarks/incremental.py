"""Measure the nightly batch over a million CV versions of which one in a hundred is new: a simulation.

    python benchmarks/incremental.py [--quick] [--json FILE]

Tables, store and models are simulated: CVs are words drawn at random, the generator counts its CVs, and the encoder
returns random vectors. The benchmark measures the work that remains when almost no CV has changed: reading and checking
the tables, the checksums of the store's parts, and the plan. Each step runs in a process of its own, whose peak
resident memory is recorded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from measuring import (
    FIRST_DAY,
    describe,
    made_up_contract,
    made_up_encoder,
    new_process,
    peak_memory_mb,
    random_unit_vectors,
    write_json,
    write_rows,
)

from girl_features import schema
from girl_features.batch.chunk import Origin
from girl_features.batch.estimate import make_plan
from girl_features.batch.local import local_chunks
from girl_features.batch.run import Batch, fill_store
from girl_features.config import TableConfig, TablesConfig
from girl_features.generator.opening import LoadedModels
from girl_features.input.tables import Tables, load_tables
from girl_features.machine import machine_description
from girl_features.schema import Encoded, GeneratedText
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, GENERATED_JDS

N_VERSIONS, N_VERSIONS_QUICK = 1_000_000, 20_000
CHANGED = 100  # one version in this number is new
N_WORDS = 150  # of a CV: about a kilobyte
N_JOBS = 1_000
DIMENSION = 384
ROWS_PER_PART = 10_000
WORDS = """
    welder nurse driver cook clerk planner engineer teacher analyst carpenter electrician cleaner manager shift site
    patients orders safety reports customers invoices machines lessons team quality budget contracts schedules tools
    years led built repaired taught sold drove planned checked trained wrote kept moved made ran cared for with and
    of the in at a to night early large small new old public private hospital school factory office warehouse
    kitchen
""".split()  # noqa: SIM905


class CountingGenerator:
    """Writes the same few words for every CV and counts the CVs."""

    def __init__(self) -> None:
        self.n_cvs = 0

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        self.n_cvs += len(cvs)
        return [
            [GeneratedText(f"wanted: {cv[:40]}", "stop", 150, 8, False) for _ in cv_seeds]
            for cv, cv_seeds in zip(cvs, seeds, strict=True)
        ]


class RandomEncoder:
    """Returns a random vector of length one for each text."""

    contract = made_up_encoder(DIMENSION)

    def encode(self, texts: Sequence[str]) -> Encoded:
        vectors = random_unit_vectors(np.random.default_rng(len(texts)), len(texts), DIMENSION)
        return Encoded(vectors, np.zeros(len(texts), bool))


CONTRACT = made_up_contract("counting", RandomEncoder.contract, max_cv_tokens=320)


def write_tables(folder: Path, n_versions: int) -> None:
    """Write the input tables: two versions of each CV, N_JOBS jobs, no decisions."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE words AS SELECT $words AS list", {"words": WORDS})
        text = f"array_to_string([list[(1 + hash(i, x) % {len(WORDS)})::BIGINT] FOR x IN range({N_WORDS})], ' ')"
        at = f"TIMESTAMPTZ '{FIRST_DAY.isoformat()}'"
        tables = {
            "job_seekers": f"""
                SELECT 'seeker-' || (i // 2) AS job_seeker_id, {text} AS cv,
                    {at} + to_days((i % 2)::INTEGER) AS updated_at
                FROM range({n_versions}) AS r(i), words""",
            "jobs": f"""
                SELECT 'job-' || i AS job_id, {text} AS jd, {at} AS posted_at FROM range({N_JOBS}) AS r(i), words""",
            "interactions": f"""
                SELECT '' AS job_seeker_id, '' AS job_id, true AS matched, {at} AS decided_at LIMIT 0""",
        }
        for name, query in tables.items():
            connection.execute(f"COPY ({query}) TO '{folder / name}.parquet' (FORMAT parquet, COMPRESSION zstd)")


def write_earlier_nights(folder: Path) -> None:
    """Write the rows that earlier nights left: all CV versions except the newer one of every fiftieth seeker."""
    store = PartsStore(folder / "store")
    store.save_contract(CONTRACT)
    encoder = RandomEncoder()
    query = f"""
        SELECT job_seeker_id, updated_at, updated_at AS event_timestamp, updated_at AS created_timestamp,
            left(sha256(cv), 16) AS cv_hash, [repeat(sha256(job_seeker_id), 8)] AS generated_jds
        FROM '{folder}/job_seekers.parquet'
        WHERE NOT (updated_at > TIMESTAMPTZ '{FIRST_DAY.isoformat()}'
            AND split_part(job_seeker_id, '-', 2)::BIGINT % {CHANGED // 2} = 0)"""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for batch in connection.execute(query).to_arrow_reader(ROWS_PER_PART):
            vectors = pa.array(list(encoder.encode([""] * batch.num_rows).vectors), schema.VECTOR)
            rows = dict(zip(batch.schema.names, batch.columns, strict=True))
            rows |= {schema.CV_VECTOR: vectors, schema.GENERATED_JD_VECTOR: vectors}
            for view in (CV_VECTORS, GENERATED_JDS):
                write_rows(store, CONTRACT, view, rows)


def open_tables(folder: Path) -> Tables:
    """Read and check the three tables."""
    paths = {name: TableConfig(path=str(folder / f"{name}.parquet")) for name in schema.INPUT_COLUMNS}
    return load_tables(TablesConfig(**paths), now=datetime.now(UTC), clock_skew=timedelta(0))


def run_step(name: str, folder: Path) -> dict[str, Any]:
    """Read the tables, then plan (if `name` is "plan") or run the batch; return times, counts and memory."""
    started = time.perf_counter()
    result: dict[str, Any] = {"name": name}
    with open_tables(folder) as tables:
        read_cpu_seconds = time.process_time()
        result |= {"read_seconds": time.perf_counter() - started, "read_cpu_seconds": read_cpu_seconds}
        store = PartsStore(folder / "store")
        if name == "plan":
            plan = make_plan(tables, CONTRACT, store)
            result["plan_seconds"] = plan.seconds
            result["plan_cpu_seconds"] = time.process_time() - read_cpu_seconds
            result |= plan.generation._asdict()
        else:
            generator = CountingGenerator()
            batch = Batch(tables, store, Origin(CONTRACT, name, "counting"), chunk_size=256)
            report = fill_store(batch, local_chunks(LoadedModels(RandomEncoder(), generator, CONTRACT)))
            result |= {"job_seconds": report.seconds, "n_planned": report.n_planned, "n_unchanged": report.n_unchanged}
            result |= {"n_generated": report.n_generated, "cvs_given_to_generator": generator.n_cvs}
    result |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}
    result["peak_mib"] = round(peak_memory_mb())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 versions, to see that all steps run")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n_versions = N_VERSIONS_QUICK if arguments.quick else N_VERSIONS
    rows = []
    with tempfile.TemporaryDirectory(prefix="girl-incremental-") as name:
        folder = Path(name)
        write_tables(folder, n_versions)
        write_earlier_nights(folder)
        for step in ("plan", "night", "next_night"):
            with new_process() as executor:
                rows.append(executor.submit(run_step, step, folder).result())
            print(describe(rows[-1]), flush=True)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    result = {"simulation": True, "n_versions": n_versions, "bytes_on_disk": size, "machine": machine_description()}
    write_json(arguments.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
