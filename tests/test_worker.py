"""The worker: what a service misses is generated for once, and the next request finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from girl_features.batch.worker import CycleReport, serve
from girl_features.contract import text_hash
from girl_features.lookup import open_queue
from girl_features.lookup.generation_queue import MissedCV
from girl_features.schema import Tier
from girl_features.store.failpoints import VARIABLE
from tests.fakes import TemplateGenerator
from tests.input_tables import day
from tests.served_market import CONTRACT, ServedMarket, served_market

ROOT = Path(__file__).parents[1]
BAD = ["", "", "", ""]  # texts that no try makes fit to store


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> ServedMarket:
    cvs = [
        *(("in-tables", "cook of many soups", day(5)), ("in-tables", "cook", day(1))),
        *(("promoted", "chief clerk", day(5)), ("promoted", "clerk", day(1))),
        *(("withdrawn", "smith", day(1)), ("withdrawn", " ", day(5))),
        *(("mended", "weldor", day(1)), ("mended", "welder of pipes", day(1))),
    ]
    generator = TemplateGenerator({"a hopeless CV": list(BAD)})
    return served_market(tmp_path_factory.mktemp("worker"), cvs=cvs, generator=generator)


def ask(market: ServedMarket, seeker: str, cv: str | None = None) -> Tier:
    """The tier of a seeker in a service that has just started."""
    with market.client() as client:
        return Tier(client.job_seekers([seeker], [cv]).tiers[0])


def n_calls(market: ServedMarket, cv: str) -> int:
    return sum(text == cv for text, _ in market.generator.calls)


def test_a_miss_is_tier_one_after_a_cycle_and_so_is_a_changed_cv(market: ServedMarket) -> None:
    worker = market.worker()
    assert ask(market, "s1", "welder") == Tier.PRIOR
    assert worker.cycle() == CycleReport(n_taken=1, n_generated=1)
    assert ask(market, "s1", "welder") == Tier.GENERATED
    assert ask(market, "s1", "welder and foreman") == Tier.STALE
    assert worker.cycle() == CycleReport(n_taken=1, n_generated=1)
    with market.client() as client:
        found = client.job_seekers(["s1"], ["welder and foreman"])
    assert (found.tiers.tolist(), found.has_cv.tolist()) == ([Tier.GENERATED], [True])
    assert 0 <= found.age[0] < 3600
    assert ask(market, "s1") == Tier.GENERATED
    assert worker.cycle() == CycleReport(), "nothing waits"


def versions_of(market: ServedMarket, seeker: str) -> list[tuple[str, datetime]]:
    """Generated JDs and the times of their CVs, as the store has them."""
    relation = market.store.scan("generated_jds", CONTRACT.fingerprint)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = f"SELECT cv_hash, updated_at FROM {relation} WHERE job_seeker_id = ? ORDER BY updated_at"
        return [(name, at.astimezone(UTC)) for name, at in connection.execute(query, [seeker]).fetchall()]


def test_a_request_with_an_old_text_does_not_undo_a_newer_cv(market: ServedMarket) -> None:
    worker = market.worker()
    for cv in ("baker", "baker of bread"):
        ask(market, "s2", cv)
        worker.cycle()
        assert ask(market, "s2", cv) == Tier.GENERATED
    before = versions_of(market, "s2")
    assert ask(market, "s2", "baker") == Tier.STALE
    assert worker.cycle() == CycleReport(n_taken=1, n_outdated=1)
    assert versions_of(market, "s2") == before
    assert ask(market, "s2", "baker of bread") == ask(market, "s2") == Tier.GENERATED
    assert (n_calls(market, "baker"), n_calls(market, "baker of bread")) == (1, 1)


def test_a_text_that_the_tables_hold_is_of_the_time_it_has_there(market: ServedMarket) -> None:
    worker = market.worker()
    ask(market, "promoted", "clerk")
    assert worker.cycle() == CycleReport(n_taken=1, n_outdated=1)
    ask(market, "promoted", "chief clerk")
    assert worker.cycle() == CycleReport(n_taken=1, n_generated=1)
    assert versions_of(market, "promoted") == [(text_hash("chief clerk"), day(5))]
    assert ask(market, "promoted", "chief clerk") == Tier.GENERATED
    assert n_calls(market, "clerk") == 0
    ask(market, "promoted", "head of all clerks")
    assert worker.cycle() == CycleReport(n_taken=1, n_generated=1), "a text nobody knew is new"
    assert ask(market, "promoted", "head of all clerks") == Tier.GENERATED


def test_the_tables_newest_cv_counts_even_where_it_is_blank_or_tied(market: ServedMarket) -> None:
    worker = market.worker()
    assert ask(market, "withdrawn") == Tier.PRIOR
    assert worker.cycle() == CycleReport(n_taken=1, n_without_cv=1)
    assert ask(market, "mended") == Tier.PRIOR
    assert worker.cycle() == CycleReport(n_taken=1, n_generated=1)
    assert [n_calls(market, cv) for cv in ("smith", "weldor", "welder of pipes")] == [0, 0, 1]
    open_queue(market.config).done([one.place for one in open_queue(market.config).take(CONTRACT.fingerprint, 9)])


def test_whoever_was_erased_is_neither_queued_nor_generated_for(market: ServedMarket) -> None:
    worker, queue = market.worker(), open_queue(market.config)
    offers = [MissedCV(CONTRACT.fingerprint, "forgotten", text_hash(cv), cv) for cv in ("monk", "")]
    assert queue.add(offers) == 2
    market.store.erase("forgotten")
    assert worker.cycle() == CycleReport(n_taken=2, n_erased=2)
    assert n_calls(market, "monk") == 0
    assert queue.lengths() == {}
    assert queue.add(offers) == 0
    assert ask(market, "forgotten", "monk") == Tier.PRIOR
    assert queue.lengths() == {}


def test_what_is_offered_again_is_not_generated_again(market: ServedMarket) -> None:
    worker, queue = market.worker(), open_queue(market.config)
    again = [
        MissedCV(CONTRACT.fingerprint, name, text_hash(cv), cv)
        for name, cv in (("s3", "nurse"), ("s4", "a hopeless CV"))
    ]
    queue.add(again)
    assert worker.cycle() == CycleReport(n_taken=2, n_generated=1, n_failed=1)
    calls = len(market.generator.calls)
    queue.add(again)
    assert worker.cycle() == CycleReport(n_taken=2, n_known=2)
    assert len(market.generator.calls) == calls
    assert queue.lengths() == {}


def test_a_seeker_without_a_cv_in_the_request_has_the_tables(market: ServedMarket) -> None:
    worker = market.worker()
    assert ask(market, "in-tables") == Tier.PRIOR
    assert ask(market, "nobody") == Tier.PRIOR
    assert worker.cycle() == CycleReport(n_taken=2, n_generated=1, n_without_cv=1)
    assert ask(market, "in-tables") == Tier.GENERATED
    assert n_calls(market, "cook of many soups") == 1, "the newest version"


def test_a_blank_cv_is_not_generated_for_and_not_ranked_by(market: ServedMarket) -> None:
    worker = market.worker()
    ask(market, "s5", "driver")
    worker.cycle()
    with market.client() as client:
        found = client.job_seekers(["s5", "s5"], [" \n\u200b", "driver"])
    assert found.tiers.tolist() == [Tier.PRIOR, Tier.GENERATED]
    assert found.has_cv.tolist() == [False, True]
    assert worker.cycle() == CycleReport()


def test_offers_for_another_contract_are_left_to_its_worker(market: ServedMarket) -> None:
    queue = open_queue(market.config)
    queue.add([MissedCV("f" * 12, "s6", text_hash("x"), "x")])
    assert serve(market.worker(), every_seconds=0.1, once=True) == CycleReport()
    assert queue.lengths() == {"f" * 12: 1}
    queue.done([one.place for one in queue.take("f" * 12, 1)])


def test_a_busy_worker_lets_a_run_that_waits_in(market: ServedMarket) -> None:
    queue = open_queue(market.config)
    n = 40
    queue.add([MissedCV(CONTRACT.fingerprint, f"busy{i}", text_hash(f"cv {i}"), f"cv {i}") for i in range(n)])
    busy = market._replace(config=market.config.model_copy(update={"chunk_size": 1})).worker()
    begun, done = threading.Event(), []

    def told(report: CycleReport) -> None:
        done.append(report.n_taken)
        begun.set()

    thread = threading.Thread(target=lambda: serve(busy, every_seconds=0.05, on_report=told, should_stop=lambda: over))
    over = False
    thread.start()
    try:
        assert begun.wait(60)
        with market.store.lock():
            n_then = len(done)
            time.sleep(0.5)
            assert len(done) <= n_then + 1, "it publishes what it has, and waits"
        assert n_then < n, "it was let in before the worker was out of work"
    finally:
        while sum(done) < n and thread.is_alive():
            time.sleep(0.05)
        over = True
        thread.join()
    assert sum(done) == n
    assert queue.lengths().get(CONTRACT.fingerprint, 0) == 0


KILLED_AT = (
    "batch.planned",
    "batch.generated",
    "batch.encoded",
    "batch.committed",
    "worker.before_publish",
    "worker.published",
)


def test_kill_9_in_mid_queue_loses_nothing_and_generates_nothing_twice(tmp_path: Path) -> None:
    market = served_market(tmp_path)
    seekers = [f"s{i}" for i in range(18)]
    queue = open_queue(market.config)
    cvs = {name: f"cv of {name}" for name in seekers}
    queue.add([MissedCV(CONTRACT.fingerprint, name, text_hash(cv), cv) for name, cv in cvs.items()])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.worker_process", str(tmp_path), json.dumps(KILLED_AT), VARIABLE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(KILLED_AT), "one kill at each moment"
    assert sum(queue.lengths().values()) > 0, "killed in mid-queue"
    serve(market.worker(), every_seconds=0.1, once=True)
    assert queue.lengths() == {}
    relation = market.store.scan("generated_jds", CONTRACT.fingerprint)
    made = Counter(name for (name,) in duckdb.sql(f"SELECT job_seeker_id FROM {relation}").fetchall())
    assert made == dict.fromkeys(seekers, 1), "every CV once"
    with market.client() as client:
        assert set(client.job_seekers(seekers, list(cvs.values())).tiers.tolist()) == {Tier.GENERATED}
