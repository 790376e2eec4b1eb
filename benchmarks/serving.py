"""Look-ups of a ranking service beside stock Feast and a raw store read, and a load test of the ranking service.

    python benchmarks/serving.py [--quick] [--json FILE] [--markdown FILE] [--only NAME ...]

The process keeps to one core. `baseline` is a raw read of the same two vectors a seeker (CV and generated JD) from the
same kind of store: SQLite's SELECT ... IN over two bare tables, Redis' MGET. `stock` is Feast's get_online_features on
Feast's own store. They are asked in turns. `ratio` is ours over the baseline, of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy and torch are imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("FEAST_USAGE", "False")

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from serving_load import press, serving  # noqa: E402
from serving_market import SEED, Market, RawRead, build_market, published, raw_redis, raw_sqlite  # noqa: E402
from serving_page import write_page  # noqa: E402
from store import redis_server  # noqa: E402

from girl_features.config import GirlConfig  # noqa: E402
from girl_features.generator.opening import load_encoder  # noqa: E402
from girl_features.lookup import FeatureClient  # noqa: E402
from girl_features.lookup.generation_queue import BackgroundQueue, GenerationQueue  # noqa: E402
from girl_features.lookup.host_encoder import HostEncoder  # noqa: E402
from girl_features.sample.tables import write_sample  # noqa: E402
from girl_features.schema import CV_VECTOR, GENERATED_JD_VECTOR, Tier  # noqa: E402
from girl_features.store.names import ViewNames  # noqa: E402
from girl_features.store.repo import open_repo  # noqa: E402

CV_WORDS = 1000
INNER = 4  # asked in a row of each: what it finds in the processor's caches is mostly its own
NO_DEADLINE_MS = 60_000.0  # for measuring what a thing takes
JOBS_RANKED = 100
WARM_UP = 5  # CVs encoded before any count


class Size(NamedTuple):
    """How much is done; the quick run is for seeing that everything works."""

    seekers: int
    repeats: dict[int, int]  # seekers a request -> requests
    encoded: int  # CVs
    load_seconds: float


FULL = Size(20_000, {1: 3000, 100: 800, 500: 300}, 300, 10.0)
QUICK = Size(1_000, {1: 200, 100: 60, 500: 30}, 30, 2.0)
Ask = Callable[[], object]


class Took(NamedTuple):
    """Seconds of one call."""

    wall: float
    processor: float  # of all threads of this process


class Bench:
    """One kind of online store."""

    def __init__(self, root: Path, market: Market, size: Size, encoder: Any, redis: str | None) -> None:
        self.market, self.size = market, size
        self.suffix = "_redis" if redis else ""
        folder = root / ("redis" if redis else "sqlite")
        repo = published(market, folder / "ours", ours=True, redis=redis)
        self.stock = open_repo(published(market, folder / "stock", ours=False, redis=redis))
        self.raw: RawRead = raw_redis(market, redis) if redis else raw_sqlite(market, folder / "raw.db")
        self.client = FeatureClient(
            repo,
            market.contract.fingerprint,
            bundle=market.bundle,
            encoder=encoder,
            queue=BackgroundQueue(GenerationQueue(folder / "queue.db")),
            deadline_ms=NO_DEADLINE_MS,
        )
        self.rng = np.random.default_rng(SEED)

    def hit(self, n: int) -> dict[str, Any]:
        asked = iter(lambda: self._some(self.market.hits, n), None)
        return self._compare(f"hit_{n}", asked, self.size.repeats[n], {Tier.GENERATED: n})

    def student(self) -> dict[str, Any]:
        """A CV vector in the store, no generated JD."""
        asked = iter(lambda: self._some(self.market.cv_alone, 1), None)
        return self._compare("student", asked, self.size.repeats[1], {Tier.STUDENT: 1})

    def mixed(self) -> dict[str, Any]:
        asked = iter(
            lambda: [
                *self._some(self.market.hits, 90),
                *self._some(self.market.stale, 5),
                *(f"unseen-{i}" for i in self.rng.integers(0, 10**9, 5)),
            ],
            None,
        )
        wanted = {Tier.GENERATED: 90, Tier.STALE: 5, Tier.PRIOR: 5}
        return self._compare("mixed_100", asked, self.size.repeats[100], wanted)

    def student_with_encoder(self, cvs: list[str]) -> dict[str, Any]:
        """An unseen seeker with a CV of a thousand words, never the same twice."""
        known = self._some(self.market.hits, 1)
        times: dict[str, list[Took]] = {"ours": [], "baseline": []}
        for i, cv in enumerate(cvs):
            ask = lambda i=i, cv=cv: self.client.job_seekers([f"new-{i}"], [cv])  # noqa: E731
            found = _timed(ask, times["ours"])
            assert found.tiers.tolist() == [Tier.STUDENT], "answered by another tier than is being measured"
            _timed(lambda: self.raw(known), times["baseline"])
        return _row(f"student_with_encoder{self.suffix}", {name: own[WARM_UP:] for name, own in times.items()})

    def _compare(self, name: str, asked: Iterator[list[str]], repeats: int, wanted: dict[Tier, int]) -> dict[str, Any]:
        names = ViewNames.of(self.market.contract)
        features = [f"{names.generated}:{GENERATED_JD_VECTOR}", f"{names.cv}:{CV_VECTOR}"]
        times: dict[str, list[Took]] = {"ours": [], "stock": [], "baseline": []}
        for turn in range(max(6, repeats // INNER)):
            ids = next(asked)
            work: dict[str, Ask] = {
                "ours": lambda ids=ids: self.client.job_seekers(ids),  # type: ignore[misc]
                "stock": lambda ids=ids: _arrays(self.stock, features, ids),  # type: ignore[misc]
                "baseline": lambda ids=ids: self.raw(ids),  # type: ignore[misc]
            }
            if turn == 0:
                self._check(ids, wanted)
            for kind, ask in work.items():
                for _ in range(1 if kind == "stock" else INNER):
                    _timed(ask, times[kind])
        return _row(name + self.suffix, {kind: own[len(own) // 20 :] for kind, own in times.items()})

    def _check(self, ids: list[str], wanted: dict[Tier, int]) -> None:
        """That what is measured is what was meant, and the same vectors come back."""
        found = self.client.job_seekers(ids)
        assert Counter(found.tiers.tolist()) == Counter({int(tier): n for tier, n in wanted.items()}), found.tiers
        stored = [i for i, name in enumerate(ids) if name in self.market.generated]
        assert all(np.array_equal(found.vectors[i], self.market.generated[ids[i]]) for i in stored)
        assert not stored or np.array_equal(self.raw(ids)[0], found.vectors[stored])

    def _some(self, names: list[str], n: int) -> list[str]:
        return [names[i] for i in self.rng.choice(len(names), n, replace=False)]


def service_load(bench: Bench) -> dict[str, Any]:
    """`/rank` of a hundred jobs: one caller alone, then ten times the requests that the service takes on."""
    from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker
    from girl_features.integrations.ranking_service import create_app
    from girl_features.integrations.service.limits import Limits
    from girl_features.integrations.service.ranking import Ranking
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
        alone = press(port, body, 1, bench.size.load_seconds)
        loaded = press(port, body, 10 * (limits.n_threads + limits.n_waiting), bench.size.load_seconds)
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


def long_cvs(root: Path, n: int) -> list[str]:
    """n texts of a thousand words each, put together from CVs of the sample market."""
    write_sample(root / "sample", n_seekers=200, seed=SEED)
    pieces = pl.read_parquet(root / "sample" / "job_seekers.parquet")["cv"].to_list()
    rng = np.random.default_rng(SEED)
    return [" ".join(" ".join(pieces[i] for i in rng.permutation(len(pieces))).split()[:CV_WORDS]) for _ in range(n)]


def hosted_encoder(config: GirlConfig, folder: Path, texts: list[str]) -> HostEncoder:
    """What `girl train student` puts into a bundle for services: the config's encoder without torch."""
    from girl_features.lookup.encoder_export import export_encoder

    folder.mkdir()
    own = load_encoder(config)
    print(f"encoder on the host: {export_encoder(own, config.encoder.name, texts, folder)}", file=sys.stderr)
    return HostEncoder(folder, own.contract)


def measure(size: Size, only: list[str], root: Path) -> Iterator[dict[str, Any]]:
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    config = GirlConfig.model_validate({"tables": tables})
    cvs = long_cvs(root, size.encoded + WARM_UP)
    encoder = hosted_encoder(config, root / "encoder", cvs[:8])
    market = build_market(root, encoder.contract, size.seekers, 2 * JOBS_RANKED)
    with ExitStack() as stack:
        servers = [None, stack.enter_context(redis_server())]
        for redis in servers if servers[1] is not None else servers[:1]:
            bench = Bench(root, market, size, encoder, redis)
            tasks: dict[str, Callable[[], dict[str, Any]]] = {
                "hit_1": lambda own=bench: own.hit(1),  # type: ignore[misc]
                "hit_100": lambda own=bench: own.hit(100),  # type: ignore[misc]
                "hit_500": lambda own=bench: own.hit(500),  # type: ignore[misc]
                "student": bench.student,
                "mixed_100": bench.mixed,
            }
            if redis is None:
                tasks["student_with_encoder"] = lambda own=bench: own.student_with_encoder(cvs)  # type: ignore[misc]
                tasks["service_rank_100_at_10x"] = lambda own=bench: service_load(own)  # type: ignore[misc]
            for name, task in tasks.items():
                if not only or name in only:
                    yield task()


def _timed(ask: Callable[[], Any], times: list[Took]) -> Any:
    start, worked = time.perf_counter(), time.process_time()
    result = ask()
    times.append(Took(time.perf_counter() - start, time.process_time() - worked))
    return result


def _arrays(store: Any, features: list[str], ids: list[str]) -> list[np.ndarray | None]:
    found = store.get_online_features(features, {"job_seeker_id": ids}).to_dict()
    columns = (found[name.partition(":")[2]] for name in features)
    return [np.array([row for row in column if row is not None], np.float32) for column in columns]


def _row(name: str, times: dict[str, list[Took]]) -> dict[str, Any]:
    """Milliseconds; with those that the processor spent, which nobody else on the machine can lengthen much."""
    measured = {kind: np.percentile(np.array(own), (50, 99), axis=0) * 1000 for kind, own in times.items()}
    ours, baseline = measured["ours"], measured["baseline"]
    found = {
        "name": name,
        "p50_ms": ours[0, 0],
        "p99_ms": ours[1, 0],
        "baseline_p50_ms": baseline[0, 0],
        "ratio": ours[0, 0] / baseline[0, 0],
        "cpu_p50_ms": ours[0, 1],
        "cpu_p99_ms": ours[1, 1],
    }
    if "stock" in measured:
        found |= {"stock_p50_ms": measured["stock"][0, 0], "stock_p99_ms": measured["stock"][1, 0]}
    return {key: value if key == "name" else round(float(value), 4) for key, value in found.items()}


def show(found: dict[str, Any]) -> None:
    worked = f"{found['cpu_p50_ms']:9.3f} {found['cpu_p99_ms']:9.3f}" if "cpu_p50_ms" in found else f"{'':19}"
    stock = f"{found['stock_p50_ms']:9.3f} {found['stock_p99_ms']:9.3f}" if "stock_p50_ms" in found else f"{'':19}"
    print(
        f"{found['name']:26} {found['p50_ms']:9.3f} {found['p99_ms']:9.3f} {found['baseline_p50_ms']:9.3f}"
        f" {found['ratio']:7.2f} {worked} {stock} {found.get('statuses', '')}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few seekers and requests, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", nargs="*", default=[], help="rows to measure, without their store's suffix")
    parser.add_argument("--markdown", type=Path, help="also write the results page here")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(
        f"{'milliseconds':26} {'p50':>9} {'p99':>9} {'raw p50':>9} {'ratio':>7} {'cpu p50':>9} {'p99':>9} "
        f"{'stock p50':>9} {'p99':>9}"
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="girl-serving-") as root:
        for found in measure(size, arguments.only, Path(root)):
            rows.append(found)
            show(found)
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.markdown:
        command = "python benchmarks/serving.py" + (" --quick" if arguments.quick else "")
        write_page(arguments.markdown, rows, command, size.seekers)
    if any(found.get("n_errors") for found in rows):
        sys.exit("the service answered something else than 200 and 429")


if __name__ == "__main__":
    main()
