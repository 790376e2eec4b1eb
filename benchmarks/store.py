"""Compare the Feast stores of this project with those of Feast and with the engine underneath, on the same data.

    python benchmarks/store.py [--quick] [--json FILE]

`limit` is what the engine does without a feature store: a bare Parquet part, DuckDB's ASOF join, SQLite's
SELECT ... IN, Redis' MGET. The three take turns, and the least time of each counts, because other work on the machine
can only add to a time. Memory is the peak resident size of a process that has done one join.
The benchmark takes no more than 8 GB of memory. Feast's stores need more for some tasks at 768 dimensions; those tasks
are made smaller or left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("FEAST_USAGE", "False")  # before Feast is imported

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import store_joins
from measuring import describe, new_process, quiet, redis_server, write_json
from raw_stores import RawStore, open_raw, redis_client
from store_data import StoreKind, open_store, rows_as_bytes, vectors_table, write_folder
from store_joins import JoinRequest, prepare_join

EVERYTHING = (datetime(2023, 12, 31, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC))  # start and end to materialize
ENOUGH_SECONDS = 8.0  # a measurement is not repeated once its runs took so long in all
KINDS = ("ours", "stock", "limit")
FEAST_KINDS: tuple[StoreKind, ...] = ("ours", "stock")
IDS_PER_REQUEST = (1, 10, 100, 500)
TOO_LARGE = {(768, "append_1k_onto_1m")}  # Feast's own store needs 10 GB for it
Row = dict[str, Any]


# The amount of data; --quick does a twentieth of it
HISTORY = {  # versions -> seekers, rows to join
    1: (300_000, 300_000),
    3: (100_000, 100_000),
    30: (10_000, 100_000),
    100: (1_000, 75_000),
}
APPEND = {"append_1k_onto_100k": 100_000, "append_1k_onto_1m": 1_000_000}  # task -> rows already there
N_MATERIALIZED = 100_000  # rows
N_ONLINE = 20_000  # seekers
N_ONLINE_REQUESTS = 400  # of one id
REPEATS, QUICK_REPEATS = 5, 3


def least_seconds(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run all in turns and return the least seconds of each.

    The first run warms up. It counts only if it took so long that there is no second.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats + 1):
        for name, run in work.items():
            if sum(times[name]) > ENOUGH_SECONDS:
                continue
            start = time.perf_counter()
            with quiet():
                run()
            times[name].append(time.perf_counter() - start)
    return {name: min(seconds[1:] or seconds) for name, seconds in times.items()}


def result_row(name: str, costs: dict[str, float], unit: str, values: dict[str, float] | None = None) -> Row:
    """Return a row with the `values` of each kind, which are the `costs` if not given, and ratios of the costs."""
    return {
        "name": name,
        **{kind: round((values or costs)[kind], 6) for kind in KINDS},
        "unit": unit,
        "stock_over_ours": round(costs["stock"] / costs["ours"], 2),
        "ours_over_limit": round(costs["ours"] / costs["limit"], 2),
    }


class StoreBench:
    """All tasks at one dimension."""

    def __init__(self, root: Path, is_quick: bool, dimension: int, redis: str | None) -> None:
        self.root, self.dimension, self.redis = root, dimension, redis
        self.divisor, self.repeats = (20, QUICK_REPEATS) if is_quick else (1, REPEATS)
        self.suffix = "" if dimension == 384 else f"_{dimension}"

    def tasks(self) -> dict[str, Callable[[], Iterator[Row]]]:
        """Return all tasks in the order of the results."""
        databases = {"sqlite": None, "redis": self.redis} if self.redis else {"sqlite": None}
        tasks: dict[str, Callable[[], Iterator[Row]]] = {}
        for database, server in databases.items():
            tasks[f"online_{database}"] = partial(self.online, server)
        tasks["append_1k_onto_100k"] = partial(self.append, "append_1k_onto_100k")
        tasks["history_1_version"] = partial(self.history, "history_1_version", 1)
        tasks["history_3_versions"] = partial(self.history, "history_3_versions", 3)
        tasks["history_30_versions"] = partial(self.history, "history_30_versions", 30)
        for database, server in databases.items():
            tasks[f"materialize_{database}"] = partial(self.materialize, server)
        tasks["append_1k_onto_1m"] = partial(self.append, "append_1k_onto_1m")
        tasks["history_100_versions"] = partial(self.history, "history_100_versions", 100)
        return tasks

    def append(self, name: str) -> Iterator[Row]:
        """Append 1,000 rows: to a folder, to one file (Feast's own store cannot append to a folder), and bare."""
        root = self.root / name
        n_rows = APPEND[name] // self.divisor
        folder = write_folder(root / "folder", n_rows, 1, self.dimension)
        single = root / "single.parquet"
        pq.write_table(pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*"))]), single)
        sources = {"ours": folder, "stock": single}
        stores = {kind: open_store(root / kind, sources[kind], self.dimension, kind) for kind in FEAST_KINDS}
        rows = vectors_table(1000, 1, self.dimension, first=n_rows)
        bare = root / "bare"
        bare.mkdir()
        numbers = count()
        work: dict[str, Callable[[], object]] = {kind: _appender(store, rows) for kind, store in stores.items()}
        work["limit"] = lambda: pq.write_table(rows, bare / f"{next(numbers)}.parquet")
        seconds = least_seconds(work, self.repeats)
        shutil.rmtree(root)
        yield result_row(f"{name}{self.suffix}", seconds, "s")

    def history(self, name: str, versions: int) -> Iterator[Row]:
        """Join vectors to entities as of their times; each kind in its own process, to measure its memory."""
        n_seekers, n_rows = (n // self.divisor for n in HISTORY[versions])
        if versions == 100:
            n_rows = n_rows * 384 // self.dimension  # Feast's own store holds a vector for every pair of rows
        root = self.root / name
        folder = write_folder(root / "parts", n_seekers, versions, self.dimension)
        peaks: dict[str, float] = {}  # after the first join, in MB

        def join(kind: str) -> None:
            peak_mb = processes[kind].submit(store_joins.join, requests[kind]).result()
            peaks.setdefault(kind, peak_mb)

        requests = {
            kind: JoinRequest(kind, root / kind, folder, n_seekers, versions, n_rows, self.dimension) for kind in KINDS
        }
        with ExitStack() as stack:
            processes = {kind: stack.enter_context(new_process()) for kind in KINDS}
            for kind in KINDS:
                processes[kind].submit(prepare_join, requests[kind]).result()
            work = {kind: partial(join, kind) for kind in KINDS}
            yield result_row(f"{name}{self.suffix}", least_seconds(work, self.repeats), "s")
        if versions == 100:
            yield result_row(f"{name}_rss{self.suffix}", peaks, "MB")
        shutil.rmtree(root)

    def materialize(self, redis: str | None) -> Iterator[Row]:
        """Move rows from the parts to an online store."""
        name = f"materialize_{'redis' if redis else 'sqlite'}"
        root, n_rows = self.root / name, N_MATERIALIZED // self.divisor
        folder = write_folder(root / "parts", n_rows, 1, self.dimension)
        stores = {kind: open_store(root / kind, folder, self.dimension, kind, redis) for kind in FEAST_KINDS}
        work: dict[str, Callable[[], object]] = {
            kind: partial(store.materialize, *EVERYTHING) for kind, store in stores.items()
        }
        work["limit"] = lambda: _fill(open_raw(root / "raw.db", redis, self.dimension), folder)
        seconds = least_seconds(work, min(2, self.repeats))
        _clean_up(root, redis)
        rates = {kind: n_rows / value for kind, value in seconds.items()}
        yield result_row(f"{name}{self.suffix}", seconds, "rows/s", rates)

    def online(self, redis: str | None) -> Iterator[Row]:
        """Read the vectors of 1 to 500 seekers into a numpy array."""
        database = "redis" if redis else "sqlite"
        root = self.root / f"online_{database}"
        n_seekers = N_ONLINE // self.divisor
        folder = write_folder(root / "parts", n_seekers, 1, self.dimension)
        ours, stock = (open_store(root / kind, folder, self.dimension, kind, redis) for kind in FEAST_KINDS)
        for store in (ours, stock):
            with quiet():
                store.materialize(*EVERYTHING)
        raw = open_raw(root / "raw.db", redis, self.dimension)
        _fill(raw, folder)
        rng = np.random.default_rng(0)
        for n in IDS_PER_REQUEST:
            ids = [f"seeker-{i}" for i in rng.choice(n_seekers, n, replace=False)]
            reads = {"ours": partial(_read_packed, ours, ids), "stock": partial(_read_stock, stock, ids)}
            reads["limit"] = partial(_read_raw, raw, ids)
            seconds = _least_read_seconds(reads, max(10, N_ONLINE_REQUESTS // self.divisor // n))
            milliseconds = {kind: 1000 * value for kind, value in seconds.items()}
            yield result_row(f"online_{n}_{database}{self.suffix}", milliseconds, "ms")
        _clean_up(root, redis)


def _appender(store: Any, rows: pa.Table) -> Callable[[], object]:
    provider, view = store._get_provider(), store.get_feature_view("facts")
    return lambda: provider.offline_store.offline_write_batch(store.config, view, rows, None)


def _fill(raw: RawStore, folder: Path) -> None:
    for rows in rows_as_bytes(folder):
        raw.write("vectors", rows)


def _read_packed(store: Any, ids: list[str]) -> np.ndarray:
    return store.get_online_features(["facts:vector"], {"seeker": ids}).vectors("vector")[0]


def _read_stock(store: Any, ids: list[str]) -> np.ndarray:
    return np.array(store.get_online_features(["facts:vector"], {"seeker": ids}).to_dict()["vector"], np.float32)


def _read_raw(raw: RawStore, ids: list[str]) -> np.ndarray:
    return raw.read(["vectors"], ids)[0]


def _least_read_seconds(reads: dict[str, Callable[[], np.ndarray]], n_rounds: int) -> dict[str, float]:
    """Check that all return the same vectors, then take turns of five timed reads."""
    first = {kind: read() for kind, read in reads.items()}
    assert all(np.array_equal(first["stock"], other) for other in first.values()), "not the same vectors"
    least = dict.fromkeys(reads, float("inf"))
    for _ in range(n_rounds):
        for kind, read in reads.items():
            read()  # refills the processor's caches, which the others have used
            for _ in range(5):
                start = time.perf_counter()
                read()
                least[kind] = min(least[kind], time.perf_counter() - start)
    return least


def _clean_up(root: Path, redis: str | None) -> None:
    shutil.rmtree(root)
    if redis is not None:
        redis_client(redis).flushall()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the data, to see that all tasks run")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with redis_server() as redis, tempfile.TemporaryDirectory(prefix="girl-bench-") as root:
        for dimension in (384, 768):
            bench = StoreBench(Path(root) / str(dimension), arguments.quick, dimension, redis)
            for name, task in bench.tasks().items():
                if not arguments.quick and (dimension, name) in TOO_LARGE:
                    continue
                for row in task():
                    rows.append(row)
                    print(describe(row), flush=True)
                    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
