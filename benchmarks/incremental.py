"""The nightly batch over a million CV versions of which one in a hundred is new: a simulation.

    python benchmarks/incremental.py [--quick] [--json FILE]

The tables, the store and the models are simulated: CVs are words drawn at random, the generator counts what it is
given and the encoder hands out random vectors. What is measured is all that is left when nearly nothing is to be done:
reading and checking the tables, the checksums of the store's parts, the plan. Each step runs in a process of its own,
whose peak resident memory is noted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.batch.chunk import Origin
from girl_features.batch.estimate import make_plan
from girl_features.batch.local import local_chunks
from girl_features.batch.run import Batch, fill_store
from girl_features.config import TableConfig, TablesConfig
from girl_features.contract import EncoderContract, FeatureContract, SamplingContract
from girl_features.evaluation.machine import machine_description
from girl_features.generator.opening import LoadedModels
from girl_features.input.tables import Tables, load_tables
from girl_features.schema import Encoded, GeneratedText
from girl_features.store.parts import PartsStore

N_VERSIONS, N_VERSIONS_QUICK = 1_000_000, 20_000
CHANGED = 100  # one version in so many
N_WORDS = 150  # of a CV: about a kilobyte
N_JOBS = 1_000
DIMENSION = 384
ROWS_A_PART = 10_000
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = """
    welder nurse driver cook clerk planner engineer teacher analyst carpenter electrician cleaner manager shift site
    patients orders safety reports customers invoices machines lessons team quality budget contracts schedules tools
    years led built repaired taught sold drove planned checked trained wrote kept moved made ran cared for with and
    of the in at a to night early large small new old public private hospital school factory office warehouse
    kitchen
""".split()  # noqa: SIM905


class CountingGenerator:
    """Writes the same few words for everybody, and counts."""

    def __init__(self) -> None:
        self.n_cvs = 0

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        self.n_cvs += len(cvs)
        return [
            [GeneratedText(f"wanted: {cv[:40]}", "stop", 150, 8, False) for _ in own]
            for cv, own in zip(cvs, seeds, strict=True)
        ]


class RandomEncoder:
    """A random vector of length one for each text."""

    contract = EncoderContract(
        name="random",
        weights_sha256="0" * 64,
        max_tokens=256,
        pooling="mean",
        normalized=True,
        dtype="float32",
        dimension=DIMENSION,
    )

    def encode(self, texts: Sequence[str]) -> Encoded:
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), DIMENSION), np.float32)
        return Encoded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.zeros(len(texts), bool))


CONTRACT = FeatureContract(
    generator="counting",
    weights_sha256="1" * 64,
    adapter_sha256=None,
    trained_until=START - timedelta(days=1),
    prompt_version="none",
    max_cv_tokens=320,
    sampling=SamplingContract(n=1, temperature=0.7, top_p=0.95, max_new_tokens=160, seed=0),
    encoder=RandomEncoder.contract,
)


def write_tables(folder: Path, n_versions: int) -> None:
    """Two versions of each CV, 1,000 jobs, no decisions."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE TABLE words AS SELECT $words AS list", {"words": WORDS})
        text = f"array_to_string([list[(1 + hash(i, x) % {len(WORDS)})::BIGINT] FOR x IN range({N_WORDS})], ' ')"
        at = f"TIMESTAMPTZ '{START.isoformat()}'"
        tables = {
            "job_seekers": f"SELECT 'seeker-' || (i // 2) AS job_seeker_id, {text} AS cv, "
            f"{at} + to_days((i % 2)::INTEGER) AS updated_at FROM range({n_versions}) AS r(i), words",
            "jobs": f"SELECT 'job-' || i AS job_id, {text} AS jd, {at} AS posted_at "
            f"FROM range({N_JOBS}) AS r(i), words",
            "interactions": f"SELECT 'seeker-0' AS job_seeker_id, 'job-0' AS job_id, true AS matched, "
            f"{at} + to_days(1) AS decided_at LIMIT 0",
        }
        for name, query in tables.items():
            connection.execute(f"COPY ({query}) TO '{folder / name}.parquet' (FORMAT parquet, COMPRESSION zstd)")


def write_earlier_nights(folder: Path) -> None:
    """Rows of all CV versions but the newer one of every fiftieth seeker, as earlier nights left them."""
    store = PartsStore(folder / "store")
    store.save_contract(CONTRACT)
    encoder, random = RandomEncoder.contract.fingerprint, RandomEncoder()
    versions = f"""SELECT job_seeker_id, updated_at, left(sha256(cv), 16) AS cv_hash
        FROM '{folder}/job_seekers.parquet'
        WHERE NOT (updated_at > TIMESTAMPTZ '{START.isoformat()}'
            AND split_part(job_seeker_id, '-', 2)::BIGINT % {CHANGED // 2} = 0)"""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for batch in connection.execute(versions).to_arrow_reader(ROWS_A_PART):
            n = batch.num_rows
            vectors = pa.array(list(random.encode([""] * n).vectors), schema.VECTOR)
            ids, times, hashes = (batch.column(i) for i in range(3))
            same: dict[str, Any] = {
                schema.JOB_SEEKER_ID: ids,
                schema.EVENT_TIMESTAMP: times,
                schema.CREATED_TIMESTAMP: times,
                schema.CV_HASH: hashes,
                schema.CV_TRUNCATED: [False] * n,
            }
            cv_rows = same | {schema.CONTRACT: [encoder] * n, schema.CV_VECTOR: vectors}
            store.write_part("cv_vectors", encoder, pa.table(cv_rows))
            generated = same | {
                schema.UPDATED_AT: times,
                schema.CONTRACT: [CONTRACT.fingerprint] * n,
                schema.RUN: ["earlier"] * n,
                schema.ENGINE: ["counting"] * n,
                schema.SEEDS: [[0]] * n,
                schema.FINISH_REASONS: [["stop"]] * n,
                schema.N_PROMPT_TOKENS: [150] * n,
                schema.N_NEW_TOKENS: [100] * n,
                schema.SECONDS: [0.1] * n,
                schema.N_REDACTED: [0] * n,
                schema.N_GENERATED: [1] * n,
                schema.GENERATED_JDS: [[hashlib.sha256(b"%d" % i).hexdigest() * 8] for i in range(n)],
                schema.GENERATED_JD_VECTOR: vectors,
                schema.GENERATED_JD_DISPERSION: pa.array([0.0] * n, pa.float32()),
            }
            store.write_part("generated_jds", CONTRACT.fingerprint, pa.table(generated))


def open_tables(folder: Path) -> Tables:
    """The three tables, read and checked."""
    paths = {name: TableConfig(path=str(folder / f"{name}.parquet")) for name in schema.INPUT_COLUMNS}
    return load_tables(TablesConfig(**paths), now=datetime.now(UTC), clock_skew=timedelta(0))


def step(name: str, folder: Path) -> dict[str, Any]:
    """One step, in a process of its own."""
    started = time.perf_counter()
    result: dict[str, Any] = {"name": name}
    with open_tables(folder) as tables:
        result |= {"read_seconds": time.perf_counter() - started, "read_cpu_seconds": time.process_time()}
        store = PartsStore(folder / "store")
        if name == "plan":
            plan = make_plan(tables, CONTRACT, store)
            result |= {
                "plan_seconds": plan.seconds,
                "plan_cpu_seconds": time.process_time() - result["read_cpu_seconds"],
            }
            result |= plan.generation._asdict()
        else:
            generator = CountingGenerator()
            batch = Batch(tables, store, Origin(CONTRACT, name, "counting"), chunk_size=256)
            report = fill_store(batch, local_chunks(LoadedModels(RandomEncoder(), generator, CONTRACT)))
            result |= {"job_seconds": report.seconds, "n_planned": report.n_planned, "n_unchanged": report.n_unchanged}
            result |= {"n_generated": report.n_generated, "cvs_given_to_generator": generator.n_cvs}
    result |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}
    result["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return result


def in_child(name: str, folder: Path) -> dict[str, Any]:
    """The result of `step` run by a fresh Python."""
    output = subprocess.run(
        [sys.executable, __file__, "--step", name, "--folder", str(folder)], check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Simulate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 versions: to see that it works")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(arguments.step, arguments.folder)))
        return
    n_versions = N_VERSIONS_QUICK if arguments.quick else N_VERSIONS
    with tempfile.TemporaryDirectory(prefix="girl-incremental-") as name:
        folder = Path(name)
        write_tables(folder, n_versions)
        write_earlier_nights(folder)
        rows = [in_child(step_name, folder) for step_name in ("plan", "night", "next_night")]
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    for row in rows:
        print(
            ", ".join(
                f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    result = {"simulation": True, "n_versions": n_versions, "bytes_on_disk": size, "machine": machine_description()}
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
