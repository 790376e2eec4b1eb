"""kill -9 at named moments and at random: no acknowledged row is lost, none is there twice, nothing is unreadable."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from girl_features.store.parts.compaction import erase_rows, finish_compaction
from girl_features.store.parts.part_files import is_intact, quarantined, reading
from tests.crash_worker import ENGINE_ROWS
from tests.feast_repos import DAY, OUR_ENGINE, OUR_OFFLINE, OUR_SQLITE, feature_view, open_store

ROOT = Path(__file__).parents[1]
N_KILLS = int(os.environ.get("GIRL_KILLS", "64"))
PHASES: dict[str, tuple[str, str | None]] = {  # phase -> job, failpoint; None is a random moment
    "part.encoded": ("append", "part.encoded"),
    "file.half_written": ("append", "file.half_written"),
    "file.before_rename": ("append", "file.before_rename"),
    "file.renamed": ("append", "file.renamed"),
    "part.committed": ("append", "part.committed"),
    "append, at random": ("append", None),
    "compact.journal_written": ("compact", "compact.journal_written"),
    "compact.merged": ("compact", "compact.merged"),
    "compact.old_removed": ("compact", "compact.old_removed"),
    "compact, at random": ("compact", None),
    "erase.tombstone_raised": ("erase", "erase.tombstone_raised"),
    "erase, merged": ("erase", "compact.merged"),
    "erase, at random": ("erase", None),
    "online.before_commit": ("online", "online.before_commit"),
    "online.committed": ("online", "online.committed"),
    "online, at random": ("online", None),
}


class Workshop:
    """The worker process and what it is told to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "tests.crash_worker", str(folder)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def do(
        self,
        job: str,
        failpoint: str | None = None,
        *,
        delay: float | None = None,
        rounds: int = 12,
        after: int = 0,
        n: int = 1,
    ) -> dict[str, int]:
        request: dict[str, Any] = {
            "job": job,
            "failpoint": failpoint,
            "delay": delay,
            "rounds": rounds,
            "after": after,
            "n": n,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, int] = json.loads(self._line())
        assert answer["failed"] == 0, f"{request}: a child failed by itself"
        return answer

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    # what is there

    def acked(self) -> set[str]:
        path = self.folder / "acks.txt"
        words = path.read_text().splitlines() if path.exists() else []
        gone = {word[1:] for word in words if word.startswith("-")}
        return {word for word in words if not word.startswith("-")} - gone

    def stored(self) -> Counter[str]:
        with reading(self.folder / "parts") as files:
            return Counter(name for path in files for name in pq.read_table(path)["id"].to_pylist())

    def check_parts(self, erased_may_be_gone: bool) -> None:
        stored = self.stored()
        assert max(stored.values()) == 1, "a row is there twice"
        rows = {name for name in self.acked() if " " not in name}
        missing = {name for name in rows - set(stored) if not (erased_may_be_gone and name.endswith(".7"))}
        assert missing == set(), "acknowledged rows are lost"
        assert quarantined(self.folder / "parts") == [], "a part is unreadable"

    def empty(self) -> None:
        """Begin anew, so that checks stay quick."""
        for path in [*(self.folder / "parts").rglob("*"), *(self.folder / ".tombstones").glob("*")]:
            if path.is_file():
                path.unlink()
        (self.folder / "acks.txt").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("crash"))
    yield workshop
    workshop.close()


def crash(workshop: Workshop, n_kills: int, seed: int) -> Counter[str]:
    """Kill workers phase by phase, checking after each kill; the number of kills of each phase."""
    rng, kills = random.Random(seed), Counter[str]()
    for phase, (job, failpoint) in PHASES.items():
        workshop.empty()
        workshop.do("append", rounds=1)
        for _ in range(-(-n_kills // len(PHASES))):
            if failpoint is None:
                answer = workshop.do(job, delay=rng.uniform(0.002, 0.12), rounds=10_000)
            else:
                answer = workshop.do(job, failpoint, after=rng.randrange(4))
            kills[phase] += answer["killed"]
            if job == "online":
                check_online(workshop)
                continue
            workshop.check_parts(job == "erase")
            finish_compaction(workshop.folder / "parts")
            workshop.check_parts(job == "erase")
    return kills


def check_online(workshop: Workshop) -> None:
    """A look by a process of its own, as after a restart."""
    store = online_store(workshop)
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    acked = {name.removeprefix("online ") for name in workshop.acked() if name.startswith("online ")}
    held = sorted(online.keys(store.config, view))
    assert acked <= {key.decode() for key in held}, "acknowledged rows are lost"
    assert online.stored_rows(store.config, view, held) == held, "a row is not what was written"
    assert len(held) % 50 == 0, "half a batch is there"


def online_store(workshop: Workshop) -> Any:
    return open_store(
        workshop.folder / "repo",
        [feature_view(workshop.folder / "facts")],
        offline=OUR_OFFLINE,
        online=OUR_SQLITE,
        engine=OUR_ENGINE,
    )


def test_kills_in_every_phase_and_none_costs_a_row(workshop: Workshop) -> None:
    """`GIRL_KILLS=480 pytest -s -k kills_in_every_phase` for many more."""
    kills = crash(workshop, N_KILLS, seed=1)
    print(f"{sum(kills.values())} kills:", dict(kills))
    assert set(kills) == set(PHASES)
    assert min(kills.values()) > 0, f"a phase was never hit: {kills}"
    assert sum(kills.values()) >= 0.8 * N_KILLS  # a random one may come after the end


def test_an_erasure_that_was_killed_is_finished_by_the_next(workshop: Workshop) -> None:
    for failpoint in ("erase.tombstone_raised", "compact.journal_written", "compact.merged", "compact.old_removed"):
        workshop.empty()
        assert workshop.do("erase", failpoint)["killed"] == 1
        gone = next(name for name in workshop.acked() if name.endswith(".7"))
        erase_rows(workshop.folder, [workshop.folder / "parts"], "id", gone)
        assert set(workshop.stored()) == workshop.acked() - {gone}


def test_a_materialization_that_was_killed_is_done_again_and_whole(workshop: Workshop) -> None:
    workshop.empty()
    assert workshop.do("engine", "engine.batch_written", rounds=1)["killed"] == 1
    store = online_store(workshop)
    view, online = store.get_feature_view("facts"), store._get_provider().online_store
    before = sum(key.count(b".") == 0 for key in online.keys(store.config, view))
    assert 0 < before < ENGINE_ROWS
    assert view.materialization_intervals == []  # the mark has not moved
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1))
    found = store.get_online_features(["facts:count"], {"seeker": [f"s{i}" for i in range(ENGINE_ROWS)]}).to_dict()
    assert found["count"] == [i % 7 + 1 for i in range(ENGINE_ROWS)]


@pytest.mark.parametrize("n_writers", [2, 4])
def test_trap_1_concurrent_writers_lose_nothing(workshop: Workshop, n_writers: int) -> None:
    """Two appends at once of Feast's own store lost half of the rows."""
    workshop.empty()
    workshop.do("append", n=n_writers, rounds=25)
    assert sorted(workshop.stored().elements()) == sorted(workshop.acked())
    assert len(workshop.acked()) == n_writers * 25 * 20


def test_writers_and_a_compaction_at_once(workshop: Workshop) -> None:
    workshop.empty()
    workshop.do("append", rounds=5)
    workshop.do("online", n=2, rounds=5)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from girl_features.store.parts.compaction import compact\n"
            "for _ in range(20): compact(Path(sys.argv[1])); time.sleep(0.02)",
            str(workshop.folder / "parts"),
        ]
    )
    workshop.do("append", n=3, rounds=25)
    assert process.wait() == 0
    assert sorted(workshop.stored().elements()) == sorted(name for name in workshop.acked() if " " not in name)
    with reading(workshop.folder / "parts") as files:
        assert all(is_intact(path) for path in files)
