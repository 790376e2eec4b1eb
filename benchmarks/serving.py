"""Compare look-ups of a ranking service with Feast's own and with a raw store read, and load-test the ranking service.

    python benchmarks/serving.py [--quick] [--json FILE] [--markdown FILE]

The process keeps to one core. `baseline` is a raw read of the same two vectors per seeker (CV and generated JD) from
the same kind of store: SQLite's SELECT ... IN over two bare tables, or Redis' MGET. `stock` is Feast's
get_online_features on Feast's own store. The three take turns. `ratio` is the median of ours over the median of the
baseline.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy and torch are imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("FEAST_USAGE", "False")

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from measuring import describe, page_head, redis_server, write_json, write_page  # noqa: E402# noqa: E402
from serving_load import Load, load_test, serving  # noqa: E402
from serving_market import (  # noqa: E402
    RAW_TABLES,
    SEED,
    Market,
    build_market,
    hosted_encoder,
    long_cvs,
    publish_market,
    raw_market,
)

from girl_features.config import GirlConfig  # noqa: E402
from girl_features.evaluation.tables import Column, markdown_table  # noqa: E402
from girl_features.lookup import FeatureClient  # noqa: E402
from girl_features.lookup.generation_queue import BackgroundQueue, GenerationQueue  # noqa: E402
from girl_features.schema import CV_VECTOR, GENERATED_JD_VECTOR, Tier  # noqa: E402
from girl_features.store.repo import ViewNames, open_repo  # noqa: E402

CALLS_IN_A_ROW = 4  # of one kind, so that the processor's caches mostly hold its own data
NO_DEADLINE_MS = 60_000.0  # so long that no look-up is cut off
JOBS_RANKED = 100
WARM_UP = 5  # CVs encoded before the first that counts


# The amount of work; --quick does a tenth of it
N_SEEKERS = 20_000
REPEATS = {1: 3000, 100: 800, 500: 300}  # seekers per request -> requests
N_ENCODED = 300  # CVs
LOAD_SECONDS = 10.0
QUICK_DIVISOR = 10
Row = dict[str, Any]
AIMS = {  # row -> the aim in words, and a check whether the row reaches it
    "hit_1": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "hit_1_redis": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "student_with_encoder": ("p99 under 30 ms on one core", lambda row: row["cpu_p99_ms"] < 30),
    "service_rank_100_at_10x": ("no answers but 200 and 429", lambda row: row["n_errors"] == 0),
}
COLUMNS = [
    Column("", "name"),
    Column("p50", "p50_ms", ".4g"),
    Column("p99", "p99_ms", ".4g"),
    Column("raw p50", "baseline_p50_ms", ".4g"),
    Column("ratio", "ratio", ".4g"),
    Column("CPU p50", "cpu_p50_ms", ".4g"),
    Column("CPU p99", "cpu_p99_ms", ".4g"),
    Column("stock p50", "stock_p50_ms", ".4g"),
    Column("stock p99", "stock_p99_ms", ".4g"),
]
EXPLANATION = """\
- `hit_N`: `FeatureClient.job_seekers` for N seekers who have both vectors in the store. `student`: a seeker with a CV
  vector and no generated JD. `student_with_encoder`: an unseen seeker whose CV of a thousand words is encoded for the
  request. `mixed_100`: a hundred seekers, of whom 90 are hits, 5 are stale and 5 unseen; the generation queue is on.
- `raw` reads the same two vectors per seeker from the same kind of store with nothing around it: SQLite's
  `SELECT ... IN` over two bare tables, or Redis' `MGET`. It knows no tiers, times, checks or deadlines. `stock` is
  Feast's `get_online_features` on Feast's own store. All take turns on one core.
- A hit takes longer than the raw read because of some 260 calls of Python and numpy: checks of dimension and
  finiteness, tiers, ages, the queue. In a profile none of them took a tenth of the difference.
- On a shared machine p99 mostly measures other work, and only ratios can be trusted. `CPU` is the processor time of our
  look-up, all threads together; the aim for one core is judged by it.
- `service_rank_100_at_10x`: `POST /rank` with a hundred jobs over HTTP on loopback, from ten times as many connections
  as the service has places, each asking again at once. `raw` is one caller alone; times are of the answers with 200."""


class CallSeconds(NamedTuple):
    """Seconds of one call."""

    wall: float
    processor: float  # of all threads of this process


class ServingBench:
    """Look-ups on one kind of online store."""

    def __init__(self, root: Path, market: Market, divisor: int, encoder: Any, redis: str | None) -> None:
        self.market, self.divisor = market, divisor
        self.suffix = "_redis" if redis else ""
        folder = root / ("redis" if redis else "sqlite")
        repo = publish_market(market, folder / "ours", "ours", redis)
        self.stock = open_repo(publish_market(market, folder / "stock", "stock", redis))
        self.raw = raw_market(market, folder / "raw.db", redis)
        self.client = FeatureClient(
            repo,
            market.contract.fingerprint,
            bundle=market.bundle,
            encoder=encoder,
            queue=BackgroundQueue(GenerationQueue(folder / "queue.db")),
            deadline_ms=NO_DEADLINE_MS,
        )
        self.rng = np.random.default_rng(SEED)

    def hit(self, n: int) -> Row:
        """Look up n seekers who have both vectors in the store."""
        return self._compare(f"hit_{n}", lambda: self._draw(self.market.hits, n), n, {Tier.GENERATED: n})

    def student(self) -> Row:
        """Look up a seeker who has a CV vector in the store but no generated JD."""
        return self._compare("student", lambda: self._draw(self.market.cv_alone, 1), 1, {Tier.STUDENT: 1})

    def mixed(self) -> Row:
        """Look up 90 hits, 5 stale and 5 unseen seekers."""
        expected = {Tier.GENERATED: 90, Tier.STALE: 5, Tier.PRIOR: 5}
        return self._compare("mixed_100", self._mixed_ids, 100, expected)

    def student_with_encoder(self, cvs: list[str]) -> Row:
        """Look up an unseen seeker with a CV of a thousand words; each CV is used once."""
        known = self._draw(self.market.hits, 1)
        times: dict[str, list[CallSeconds]] = {"ours": [], "baseline": []}
        for number, cv in enumerate(cvs):
            times["ours"].append(_seconds(partial(self._student_for, f"new-{number}", cv)))
            times["baseline"].append(_seconds(partial(self.raw.read, RAW_TABLES, known)))
        counted = {kind: calls[WARM_UP:] for kind, calls in times.items()}
        return _row(f"student_with_encoder{self.suffix}", counted)

    def _student_for(self, name: str, cv: str) -> None:
        tiers = self.client.job_seekers([name], [cv]).tiers.tolist()
        assert tiers == [Tier.STUDENT], "another tier answered than the one to measure"

    def _mixed_ids(self) -> list[str]:
        unseen = [f"unseen-{i}" for i in self.rng.integers(0, 10**9, 5)]
        return [*self._draw(self.market.hits, 90), *self._draw(self.market.stale, 5), *unseen]

    def _compare(self, name: str, draw_ids: Callable[[], list[str]], n: int, expected: dict[Tier, int]) -> Row:
        """Time look-ups of n seekers in turns. The first twentieth of the calls does not count."""
        views = ViewNames.of(self.market.contract)
        features = [f"{views.generated}:{GENERATED_JD_VECTOR}", f"{views.cv}:{CV_VECTOR}"]
        times: dict[str, list[CallSeconds]] = {"ours": [], "stock": [], "baseline": []}
        for turn in range(max(6, REPEATS[n] // self.divisor // CALLS_IN_A_ROW)):
            ids = draw_ids()
            if turn == 0:
                self._check(ids, expected)
            for _ in range(CALLS_IN_A_ROW):
                times["ours"].append(_seconds(partial(self.client.job_seekers, ids)))
            times["stock"].append(_seconds(partial(_stock_vectors, self.stock, features, ids)))
            for _ in range(CALLS_IN_A_ROW):
                times["baseline"].append(_seconds(partial(self.raw.read, RAW_TABLES, ids)))
        counted = {kind: calls[len(calls) // 20 :] for kind, calls in times.items()}
        return _row(name + self.suffix, counted)

    def _check(self, ids: list[str], expected: dict[Tier, int]) -> None:
        """Check that the expected tiers answer and that all stores return the same vectors."""
        answer = self.client.job_seekers(ids)
        assert Counter(answer.tiers.tolist()) == Counter({int(tier): n for tier, n in expected.items()}), answer.tiers
        stored = [i for i, name in enumerate(ids) if name in self.market.generated]
        assert all(np.array_equal(answer.vectors[i], self.market.generated[ids[i]]) for i in stored)
        if stored:
            assert np.array_equal(self.raw.read(RAW_TABLES, ids)[0], answer.vectors[stored])

    def _draw(self, names: list[str], n: int) -> list[str]:
        return [names[i] for i in self.rng.choice(len(names), n, replace=False)]


def service_load(bench: ServingBench) -> Row:
    """Rank a hundred jobs by `/rank`: one caller alone, then ten times as many callers as the service has places."""
    from girl_features.integrations.online_ranking import Ranking
    from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker
    from girl_features.integrations.ranking_service import create_app
    from girl_features.integrations.service.limits import Limits
    from girl_features.ranker import PairFeatures

    market, limits = bench.market, Limits()
    cv, jd, generated = (bench.rng.standard_normal((600, bench.client.dimension), np.float32) for _ in range(3))
    pairs = PairFeatures(cv, jd, generated, np.zeros(600, np.int8), market.contract.fingerprint)
    ranker = LightGBMRanker("lightgbm", "enhanced")
    labels = (jd * (cv + generated)).sum(axis=1) > 0
    ranker.fit(pairs.take(np.arange(400)), labels[:400], pairs.take(np.arange(400, 600)), labels[400:])
    app = create_app(Ranking(bench.client, ranker, market.contract.fingerprint, "lightgbm"), limits)
    body: dict[str, object] = {"job_seeker_id": market.hits[0], "job_ids": market.jobs[:JOBS_RANKED]}
    with serving(app) as port:
        alone: Load = load_test(port, body, 1, LOAD_SECONDS / bench.divisor)
        loaded = load_test(port, body, 10 * (limits.n_threads + limits.n_waiting), LOAD_SECONDS / bench.divisor)
    return {
        "name": "service_rank_100_at_10x",
        "p50_ms": round(loaded.p50_ms, 3),
        "p99_ms": round(loaded.p99_ms, 3),
        "baseline_p50_ms": round(alone.p50_ms, 3),
        "ratio": round(loaded.p50_ms / alone.p50_ms, 2),
        "statuses": loaded.statuses,
        "statuses_alone": alone.statuses,
        "n_errors": loaded.n_errors + alone.n_errors,
    }


def measure(divisor: int, root: Path) -> Iterator[Row]:
    """Yield the rows of all tasks: on SQLite, then on Redis if it is installed."""
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    config = GirlConfig.model_validate({"tables": tables})
    cvs = long_cvs(root, N_ENCODED // divisor + WARM_UP)
    encoder = hosted_encoder(config, root / "encoder", cvs[:8])
    market = build_market(root, encoder.contract, N_SEEKERS // divisor, 2 * JOBS_RANKED)
    with redis_server() as redis:
        for server in [None] if redis is None else [None, redis]:
            bench = ServingBench(root, market, divisor, encoder, server)
            for n in (1, 100, 500):
                yield bench.hit(n)
            yield bench.student()
            yield bench.mixed()
            if server is None:
                yield bench.student_with_encoder(cvs)
                yield service_load(bench)


def _seconds(call: Callable[[], object]) -> CallSeconds:
    start, processor_start = time.perf_counter(), time.process_time()
    call()
    return CallSeconds(time.perf_counter() - start, time.process_time() - processor_start)


def _stock_vectors(store: Any, features: list[str], ids: list[str]) -> list[np.ndarray]:
    answer = store.get_online_features(features, {"job_seeker_id": ids}).to_dict()
    columns = (answer[name.partition(":")[2]] for name in features)
    return [np.array([row for row in column if row is not None], np.float32) for column in columns]


def _row(name: str, times: dict[str, list[CallSeconds]]) -> Row:
    """Return percentiles in milliseconds, of wall time and of processor time, which other work hardly lengthens."""
    measured = {kind: np.percentile(np.array(calls), (50, 99), axis=0) * 1000 for kind, calls in times.items()}
    ours, baseline = measured["ours"], measured["baseline"]
    row = {
        "p50_ms": ours[0, 0],
        "p99_ms": ours[1, 0],
        "baseline_p50_ms": baseline[0, 0],
        "ratio": ours[0, 0] / baseline[0, 0],
        "cpu_p50_ms": ours[0, 1],
        "cpu_p99_ms": ours[1, 1],
    }
    if "stock" in measured:
        row |= {"stock_p50_ms": measured["stock"][0, 0], "stock_p99_ms": measured["stock"][1, 0]}
    return {"name": name, **{key: round(float(value), 4) for key, value in row.items()}}


def page(rows: Sequence[Row], n_seekers: int) -> list[str]:
    """Return the lines of the results page."""
    facts = {"Data": f"{n_seekers} seekers, 384 dimensions", "Unit": "milliseconds"}
    cells = [{column.name: row.get(column.name) for column in COLUMNS} | {"name": f"`{row['name']}`"} for row in rows]
    table = markdown_table(pl.DataFrame(cells), COLUMNS)
    aims = []
    for row in rows:
        if row["name"] in AIMS:
            aim, is_reached = AIMS[row["name"]]
            counts = ", ".join(f"{n} x {status}" for status, n in row.get("statuses", {}).items())
            verdict = ("reached" if is_reached(row) else "missed") + (f" ({counts})" if counts else "")
            aims.append(f"- `{row['name']}`: the aim is {aim}; {verdict}.")
    return [*page_head("Serving", facts), table, "", *aims, "", EXPLANATION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few seekers and requests, to see that all tasks run")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--markdown", type=Path, help="also write the results page to this file")
    arguments = parser.parse_args()
    divisor = QUICK_DIVISOR if arguments.quick else 1
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="girl-serving-") as root:
        for row in measure(divisor, Path(root)):
            rows.append(row)
            print(describe(row), flush=True)
            write_json(arguments.json, rows)
    write_page(arguments.markdown, page(rows, N_SEEKERS // divisor))
    if any(row.get("n_errors") for row in rows):
        sys.exit("the service returned answers other than 200 and 429; see `statuses`")


if __name__ == "__main__":
    main()
