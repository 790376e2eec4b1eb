"""Our Feast stores beside Feast's own and the raw limit: same data, one after the other, round and round.

    python benchmarks/store.py [--quick] [--json FILE] [--only NAME ...]

`limit` is what the engine underneath does without any feature store: a bare Parquet part, DuckDB's ASOF join, SQLite's
SELECT ... IN, Redis' MGET. Times are the least of several, as other work on the machine only ever adds to them; memory
is the peak resident size of a process that has done one join.
No more than 8 GB of memory are taken: what Feast's own would need more for is made smaller, or left out, at 768.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.sql import parquet_relation
from girl_features.store.parts.part_files import parquet_bytes

START = datetime(2024, 1, 1, tzinfo=UTC)
UNTIL = datetime(2025, 6, 1, tzinfo=UTC)
SEED = 0
ENOUGH_SECONDS = 8.0  # slow measurements are not repeated once they took so long in all
KINDS = ("ours", "stock", "limit")


class Size(NamedTuple):
    """How much data; the quick run is for seeing that everything works."""

    history: dict[int, tuple[int, int]]  # versions -> seekers, entity rows
    append: dict[str, int]  # name -> rows already there
    materialize: int
    online: int
    repeats: int


FULL = Size(
    {3: (100_000, 100_000), 30: (10_000, 100_000), 100: (1_000, 75_000), 1: (300_000, 300_000)},
    {"append_1k_onto_100k": 100_000, "append_1k_onto_1m": 1_000_000},
    100_000,
    20_000,
    5,
)
QUICK = Size(
    {3: (5_000, 5_000), 30: (500, 5_000), 100: (100, 3_000), 1: (15_000, 15_000)},
    {"append_1k_onto_100k": 10_000, "append_1k_onto_1m": 30_000},
    5_000,
    2_000,
    3,
)


def vectors_table(n_seekers: int, versions: int, dimension: int, first: int = 0, seed: int = SEED) -> pa.Table:
    """`versions` rows of each seeker, a day apart, in random order."""
    rng = np.random.default_rng(seed)
    n = n_seekers * versions
    who = np.tile(np.arange(first, first + n_seekers), versions)
    day = np.repeat(np.arange(versions), n_seekers)
    order = rng.permutation(n)
    times = (np.datetime64("2024-01-01", "us") + day[order].astype("timedelta64[D]")).astype("datetime64[us]")
    values = rng.standard_normal(n * dimension, np.float32)
    offsets = np.arange(n + 1, dtype=np.int32) * dimension
    return pa.table(
        {
            "seeker": pa.array([f"seeker-{i}" for i in who[order]]),
            "event_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "vector": pa.ListArray.from_arrays(offsets, values),
        }
    )


def write_folder(folder: Path, n_seekers: int, versions: int, dimension: int, rows_a_part: int = 100_000) -> Path:
    """Rows in parts of a hundred thousand, as a nightly job would leave them."""
    folder.mkdir(parents=True)
    step = max(1, rows_a_part // versions)
    for i, first in enumerate(range(0, n_seekers, step)):
        table = vectors_table(min(step, n_seekers - first), versions, dimension, first, seed=i)
        (folder / f"{i:04d}.parquet").write_bytes(parquet_bytes(table))
    return folder


def open_store(root: Path, source: Path, dimension: int, *, ours: bool, redis: str | None = None) -> Any:
    """A Feast store of ours or of Feast's own over one view."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float32, String

    root.mkdir(parents=True, exist_ok=True)
    stores = "girl_features.store"
    online: dict[str, Any] = {"type": "sqlite", "path": str(root / "online.db")}
    if ours:
        online["type"] = f"{stores}.online_sqlite.PackedSqliteOnlineStore"
    if redis is not None:
        online = {"type": "redis", "connection_string": f"{redis},db=1"}
        if ours:
            online = {
                "type": f"{stores}.online_redis.PackedRedisOnlineStore",
                "connection_string": f"{redis},db=0",
                "read_deadline_ms": 1000,
            }
    settings: dict[str, Any] = {
        "project": "bench",
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(root / "registry.db"), "cache_ttl_seconds": 3600},
        "offline_store": {"type": f"{stores}.offline.PartsDuckDBOfflineStore" if ours else "duckdb"},
        "online_store": online,
        "materialization": {"online_write_batch_size": 10_000},
        "entity_key_serialization_version": 3,
    }
    if ours:
        settings["batch_engine"] = {"type": f"{stores}.engine.ArrowComputeEngine"}
    entity = Entity(name="seeker", join_keys=["seeker"], value_type=ValueType.STRING)
    view = FeatureView(
        name="facts",
        entities=[entity],
        schema=[
            Field(name="seeker", dtype=String),
            Field(name="vector", dtype=Array(Float32), vector_index=True, vector_length=dimension),
        ],
        source=FileSource(
            name="facts_source",
            path=str(source),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=timedelta(0),
    )
    store = FeatureStore(config=RepoConfig(**settings, repo_path=str(root)))
    with quiet():
        store.apply([entity, view])
    return store


@contextmanager
def quiet() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def interleaved(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Least seconds of each, in turns; the first warms up, and counts only where it took so long that it is alone."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, run in work.items():
            if sum(times[name]) > ENOUGH_SECONDS:
                continue
            start = time.perf_counter()
            with quiet():
                run()
            times[name].append(time.perf_counter() - start)
    return {name: min(own[1:] or own) for name, own in times.items()}


def result(name: str, measured: dict[str, float], unit: str, *, per: float = 1.0) -> dict[str, Any]:
    values = {kind: measured[kind] * per for kind in KINDS}
    return {
        "name": name,
        **{kind: round(value, 6) for kind, value in values.items()},
        "unit": unit,
        "stock_over_ours": round(values["stock"] / values["ours"], 2),
        "ours_over_limit": round(values["ours"] / values["limit"], 2),
    }


class Bench:
    def __init__(self, root: Path, size: Size, dimension: int, redis: str | None) -> None:
        self.root, self.size, self.dimension, self.redis = root, size, dimension, redis
        self.suffix = "" if dimension == 384 else f"_{dimension}"

    def append(self, name: str) -> Iterator[dict[str, Any]]:
        """One thousand rows onto a folder (ours), onto a file (Feast's own cannot append to a folder), bare."""
        n = self.size.append[name]
        folder = write_folder(self.root / name / "folder", n, 1, self.dimension)
        single = self.root / name / "single.parquet"
        pq.write_table(pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*"))]), single)
        ours = open_store(self.root / name / "ours", folder, self.dimension, ours=True)
        stock = open_store(self.root / name / "stock", single, self.dimension, ours=False)
        rows = vectors_table(1000, 1, self.dimension, first=n)
        count = iter(range(1_000_000))
        bare = self.root / name / "bare"
        bare.mkdir()
        views = {store: store.get_feature_view("facts") for store in (ours, stock)}

        def write(store: Any) -> None:
            provider = store._get_provider()
            provider.offline_store.offline_write_batch(store.config, views[store], rows, None)

        measured = interleaved(
            {
                "ours": lambda: write(ours),
                "stock": lambda: write(stock),
                "limit": lambda: pq.write_table(rows, bare / f"{next(count)}.parquet"),
            },
            self.size.repeats,
        )
        shutil.rmtree(self.root / name)
        yield result(f"{name}{self.suffix}", measured, "s")

    def history(self, versions: int) -> Iterator[dict[str, Any]]:
        """Joins in a process for each kind, so that the memory of each is its own."""
        name = f"history_{versions}_version{'s' if versions > 1 else ''}"
        n_seekers, n_rows = self.size.history[versions]
        if versions == 100:
            n_rows = n_rows * 384 // self.dimension  # Feast's own holds a vector for every pair of rows
        folder = write_folder(self.root / name / "parts", n_seekers, versions, self.dimension)
        request = Join(str(folder), n_seekers, versions, n_rows, self.dimension)
        with ExitStack() as stack:
            processes = {kind: stack.enter_context(JoinProcess(kind, request)) for kind in KINDS}
            work: dict[str, Callable[[], object]] = {kind: process.join for kind, process in processes.items()}
            yield result(f"{name}{self.suffix}", interleaved(work, self.size.repeats), "s")
            if versions == 100:
                yield result(f"{name}_rss{self.suffix}", {kind: p.peak for kind, p in processes.items()}, "MB")
        shutil.rmtree(self.root / name)

    def materialize(self, redis: bool) -> Iterator[dict[str, Any]]:
        if redis and self.redis is None:
            return
        name = f"materialize_{'redis' if redis else 'sqlite'}"
        n = self.size.materialize
        folder = write_folder(self.root / name / "parts", n, 1, self.dimension)
        server = self.redis if redis else None
        stores = {
            kind: open_store(self.root / name / kind, folder, self.dimension, ours=kind == "ours", redis=server)
            for kind in ("ours", "stock")
        }

        def run(kind: str) -> None:
            stores[kind].materialize(START - timedelta(days=1), UNTIL)

        work: dict[str, Callable[[], object]] = {kind: (lambda own=kind: run(own)) for kind in stores}
        path = self.root / name / "raw.db"
        work["limit"] = lambda: raw_redis_write(folder, server) if server else raw_sqlite_write(folder, path)
        rows_a_second = {kind: n / s for kind, s in interleaved(work, min(2, self.size.repeats)).items()}
        shutil.rmtree(self.root / name)
        flush(server)
        found = result(f"{name}{self.suffix}", rows_a_second, "rows/s")
        found["stock_over_ours"] = round(
            rows_a_second["ours"] / rows_a_second["stock"], 2
        )  # times faster, as elsewhere
        found["ours_over_limit"] = round(rows_a_second["limit"] / rows_a_second["ours"], 2)
        yield found

    def online(self, redis: bool) -> Iterator[dict[str, Any]]:
        if redis and self.redis is None:
            return
        kind = "redis" if redis else "sqlite"
        folder = write_folder(self.root / f"online_{kind}" / "parts", self.size.online, 1, self.dimension)
        server = self.redis if redis else None
        root = self.root / f"online_{kind}"
        ours = open_store(root / "ours", folder, self.dimension, ours=True, redis=server)
        stock = open_store(root / "stock", folder, self.dimension, ours=False, redis=server)
        for store in (ours, stock):
            with quiet():
                store.materialize(START - timedelta(days=1), UNTIL)
        raw = raw_redis_reader(folder, server) if server else raw_sqlite_reader(folder, root / "raw.db")
        rng = np.random.default_rng(SEED)
        for n in (1, 10, 100, 500):
            asked = [f"seeker-{i}" for i in rng.choice(self.size.online, n, replace=False)]
            times: dict[str, list[float]] = {each: [] for each in KINDS}
            work: dict[str, Callable[[], np.ndarray]] = {
                "ours": lambda a=asked: ours.get_online_features(["facts:vector"], {"seeker": a}).vectors("vector")[0],
                "stock": lambda a=asked: np.array(
                    stock.get_online_features(["facts:vector"], {"seeker": a}).to_dict()["vector"], np.float32
                ),
                "limit": lambda a=asked: raw(a),
            }
            first = {each: run() for each, run in work.items()}
            assert all(np.array_equal(first["stock"], other) for other in first.values()), "not the same vectors"
            for _ in range(max(10, (400 if self.size is FULL else 40) // n)):
                for each, run in work.items():
                    run()  # each begins with what it left in the caches itself
                    for _ in range(5):
                        start = time.perf_counter()
                        run()
                        times[each].append(time.perf_counter() - start)
            least = {each: min(own) for each, own in times.items()}
            yield result(f"online_{n}_{kind}{self.suffix}", least, "ms", per=1000)
        shutil.rmtree(root)
        flush(server)


class Join(NamedTuple):
    """A point-in-time join of random seekers at random times."""

    folder: str
    n_seekers: int
    versions: int
    n_rows: int
    dimension: int

    def runner(self, kind: str, root: Path) -> Callable[[], pa.Table]:
        """What does it: our store, Feast's own, or DuckDB alone."""
        rng = np.random.default_rng(SEED)
        one = self.versions == 1
        who = rng.permutation(self.n_seekers) if one else rng.integers(0, self.n_seekers, self.n_rows)
        at = pd.to_datetime(START) + pd.to_timedelta(rng.uniform(0, self.versions, self.n_rows) + 0.5, unit="D")
        entities = pd.DataFrame({"seeker": [f"seeker-{i}" for i in who], "event_timestamp": at.floor("us")})
        if kind == "limit":
            return lambda: asof(entities, Path(self.folder))
        store = open_store(root / kind, Path(self.folder), self.dimension, ours=kind == "ours")
        return lambda: store.get_historical_features(entities, ["facts:vector"]).to_arrow()


class JoinProcess:
    """A process of its own that does one join whenever it is told to."""

    def __init__(self, kind: str, request: Join) -> None:
        command = [sys.executable, __file__, "--child", kind, *map(str, request)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0.0  # megabytes after the first join
        self._answer()

    def __enter__(self) -> JoinProcess:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def join(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        peak = self._answer()
        self.peak = self.peak or peak

    def _answer(self) -> float:
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())


def child(kind: str, request: Join) -> None:
    """Do a join for every line that comes in; answer with this process's peak memory in MB, and once at the start."""
    with tempfile.TemporaryDirectory() as root:
        with quiet():
            run = request.runner(kind, Path(root))
        print(0, flush=True)
        for _ in sys.stdin:
            with quiet():
                n_rows = run().num_rows
            assert n_rows == request.n_rows
            print(peak_memory(), flush=True)


def peak_memory() -> float:
    """MB; getrusage would count the parent's memory at the fork."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def asof(entities: pd.DataFrame, folder: Path) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", pa.Table.from_pandas(entities, preserve_index=False))
        connection.execute("CREATE TEMP TABLE entity AS FROM frame")  # of a size it knows, else it joins by a loop
        files = parquet_relation(sorted(folder.glob("*.parquet")), file_row_number=True)
        return connection.execute(
            f"WITH narrow AS (SELECT seeker, event_timestamp, file_index, file_row_number FROM {files}), "
            f"picked AS (SELECT e.*, n.file_index, n.file_row_number FROM entity e ASOF LEFT JOIN narrow n "
            f"ON e.seeker = n.seeker AND e.event_timestamp >= n.event_timestamp) "
            f"SELECT picked.*, f.vector FROM picked LEFT JOIN {files} f USING (file_index, file_row_number)"
        ).to_arrow_table()


def raw_rows(folder: Path) -> Iterator[list[tuple[str, bytes]]]:
    with duckdb.connect() as connection:
        files = parquet_relation(sorted(folder.glob("*.parquet")))
        reader = connection.execute(f"SELECT seeker, vector FROM {files}").to_arrow_reader(10_000)
        for batch in reader:
            vectors = batch.column(1).flatten().to_numpy().reshape(batch.num_rows, -1)
            data, width = vectors.tobytes(), vectors.shape[1] * 4
            rows = [data[start : start + width] for start in range(0, len(data), width)]
            yield list(zip(batch.column(0).to_pylist(), rows, strict=True))


def raw_sqlite_write(folder: Path, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v BLOB)")
        for rows in raw_rows(folder):
            connection.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", rows)
            connection.commit()


def raw_redis_write(folder: Path, server: str) -> None:
    client = redis_client(server)
    for rows in raw_rows(folder):
        with client.pipeline(transaction=False) as pipe:
            for key, value in rows:
                pipe.set(key, value)
            pipe.execute()


def raw_sqlite_reader(folder: Path, path: Path) -> Callable[[list[str]], np.ndarray]:
    raw_sqlite_write(folder, path)
    connection = sqlite3.connect(path)

    def read(asked: list[str]) -> np.ndarray:
        marks = ",".join("?" * len(asked))
        found = dict(connection.execute(f"SELECT k, v FROM t WHERE k IN ({marks})", asked))
        return np.frombuffer(b"".join([found[key] for key in asked]), np.float32).reshape(len(asked), -1)

    return read


def raw_redis_reader(folder: Path, server: str) -> Callable[[list[str]], np.ndarray]:
    raw_redis_write(folder, server)
    client = redis_client(server)

    def read(asked: list[str]) -> np.ndarray:
        return np.frombuffer(b"".join(client.mget(asked)), np.float32).reshape(len(asked), -1)

    return read


def redis_client(server: str) -> Any:
    import redis

    host, port = server.split(":")
    return redis.Redis(host=host, port=int(port), db=2)


def flush(server: str | None) -> None:
    if server is not None:
        redis_client(server).flushall()


@contextmanager
def redis_server() -> Iterator[str | None]:
    """One of our own on a free port; None where the program is not installed."""
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: its rows are left out", file=sys.stderr)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        time.sleep(0.5)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def measure(size: Size, dimension: int, redis: str | None, only: list[str], root: Path) -> Iterator[dict[str, Any]]:
    bench = Bench(root, size, dimension, redis)
    tasks: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "online_sqlite": lambda: bench.online(False),
        "online_redis": lambda: bench.online(True),
        "append_1k_onto_100k": lambda: bench.append("append_1k_onto_100k"),
        "history_1_version": lambda: bench.history(1),
        "history_3_versions": lambda: bench.history(3),
        "history_30_versions": lambda: bench.history(30),
        "materialize_sqlite": lambda: bench.materialize(False),
        "materialize_redis": lambda: bench.materialize(True),
        "append_1k_onto_1m": lambda: bench.append("append_1k_onto_1m"),
        "history_100_versions": lambda: bench.history(100),
    }
    too_large = {"append_1k_onto_1m"}  # Feast's own needs 10 GB for it at 768
    for name, task in tasks.items():
        if (only and name not in only) or (dimension == 768 and size is FULL and name in too_large):
            continue
        yield from task()


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['name']:30} {found['ours']:12.4g} {found['stock']:12.4g} {found['limit']:12.4g} {found['unit']:7}"
        f" {found['stock_over_ours']:8.1f}x {found['ours_over_limit']:7.2f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the data, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the results here; rows of other tasks in it are kept")
    parser.add_argument("--only", nargs="*", default=[], help="tasks to run")
    parser.add_argument("--dimensions", nargs="*", type=int, default=[384, 768])
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.child:
        kind, folder, *numbers = arguments.child
        child(kind, Join(folder, *map(int, numbers)))
        return
    os.environ.setdefault("FEAST_USAGE", "False")
    print(f"{'':30} {'ours':>12} {'stock':>12} {'limit':>12} {'':7} {'stock/ours':>9} {'ours/limit':>8}")
    kept = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    results = {found["name"]: found for found in kept}
    with redis_server() as redis, tempfile.TemporaryDirectory(prefix="girl-bench-") as root:
        for dimension in arguments.dimensions:
            for found in measure(size, dimension, redis, arguments.only, Path(root) / str(dimension)):
                results[found["name"]] = found
                show(found)
                if arguments.json:
                    arguments.json.parent.mkdir(parents=True, exist_ok=True)
                    arguments.json.write_text(json.dumps(list(results.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
