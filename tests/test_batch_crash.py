"""kill -9, signals and full disks in the middle of the batch job: nothing lost, nothing twice, no second generation."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from girl_features.batch.run_log import RunLog
from girl_features.errors import StoreError
from girl_features.store.parts import PartsStore
from girl_features.store.parts.part_files import reading
from girl_features.store.parts.rows import VIEWS
from girl_features.store.verify import verify
from tests.batch_worker import N_CVS, N_JOBS, cv_text, make_inputs, models_of
from tests.fakes import HashingEncoder
from tests.input_tables import load
from tests.local_batch import materialize

ROOT = Path(__file__).parents[1]
N_FAILING = sum("in circles" in cv_text(i) for i in range(N_CVS))
PHASES: dict[str, tuple[str | None, bool]] = {  # phase -> failpoint or a random moment; whether chunks go before it
    "run.begun": ("run.begun", False),
    "batch.planned": ("batch.planned", False),
    "batch.generated": ("batch.generated", True),
    "batch.failures_committed": ("batch.failures_committed", True),
    "batch.encoded": ("batch.encoded", True),
    "part.encoded": ("part.encoded", True),
    "file.half_written": ("file.half_written", True),
    "file.before_rename": ("file.before_rename", True),
    "file.renamed": ("file.renamed", True),
    "part.committed": ("part.committed", True),
    "batch.committed": ("batch.committed", True),
    "batch.cv_vectors_committed": ("batch.cv_vectors_committed", False),
    "batch.jd_vectors_committed": ("batch.jd_vectors_committed", False),
    "batch.before_publish": ("batch.before_publish", False),
    "online.before_commit": ("online.before_commit", False),
    "online.committed": ("online.committed", False),
    "run.before_end": ("run.before_end", False),
    "at random": (None, False),
}
COMMAND = [sys.executable, "-m", "tests.batch_worker"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class Workshop:
    """The worker process, and what its runs leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = PartsStore(folder / "workspace" / "store")
        self.process = subprocess.Popen(
            [*COMMAND, "serve", str(folder)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._line() == "ready"

    def do(self, failpoint: str | None = None, *, after: int = 0, delay: float | None = None) -> bool:
        """Run the job once; whether it was killed. No CV is generated for that was committed before."""
        committed, n_noted = self.committed(), len(self.noted())
        request: dict[str, Any] = {"failpoint": failpoint, "after": after, "delay": delay}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        assert not answer["failed"], f"{request}: the run failed by itself"
        again = committed & set(self.noted()[n_noted:])
        assert not again, f"{request}: committed before and generated again: {again}"
        assert committed <= self.committed(), f"{request}: committed rows are lost"
        return bool(answer["killed"])

    def noted(self) -> list[str]:
        path = self.folder / "generated.txt"
        return path.read_text().splitlines() if path.exists() else []

    def committed(self) -> set[str]:
        """Texts of the CVs that the ledger says are done."""
        ids = ids_of(self.store, "generated_jds", "failures")
        return {cv_text(int(name.removeprefix("s"))) for name in ids}

    def check_whole(self) -> None:
        """Every CV and job once, and online what is offline."""
        everyone = sorted(f"s{i}" for i in range(N_CVS))
        assert sorted(ids_of(self.store, "generated_jds", "failures")) == everyone
        assert len(ids_of(self.store, "failures")) == N_FAILING + 1
        assert sorted(ids_of(self.store, "cv_vectors")) == everyone
        assert sorted(ids_of(self.store, "jd_vectors")) == sorted(f"j{i}" for i in range(N_JOBS))
        assert verify(self.folder / "workspace" / "feature_repo").agrees
        records = RunLog(self.folder / "workspace" / "runs").records()
        assert records[-1].status == "finished"
        assert {record.status for record in records} <= {"finished", "killed"}
        assert list(self.store.root.rglob(".tmp-*")) == [], "cleaned at the start of the next run"

    def empty(self) -> None:
        shutil.rmtree(self.folder / "workspace", ignore_errors=True)
        (self.folder / "generated.txt").unlink(missing_ok=True)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def ids_of(store: PartsStore, *views: str) -> list[str]:
    """Ids of the rows of the views, under their one contract."""
    found: list[str] = []
    for view in views:
        for folder in (store.root / view).glob("*"):
            with reading(folder) as files, duckdb.connect() as connection:
                names = [str(path) for path in files]
                query = f"SELECT {VIEWS[view].key} FROM read_parquet($names)"
                found += [row[0] for row in connection.execute(query, {"names": names}).fetchall()]
    return found


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("batch"))
    yield workshop
    workshop.close()


def crash(workshop: Workshop, kills_a_phase: int, seed: int) -> Counter[str]:
    """Kill the job phase by phase, then let it finish; the number of kills of each phase."""
    rng, kills = random.Random(seed), Counter[str]()
    for phase, (failpoint, is_late) in PHASES.items():
        workshop.empty()
        for _ in range(kills_a_phase):
            if failpoint is None:
                kills[phase] += workshop.do(delay=rng.uniform(0.05, 1.0))
            else:
                kills[phase] += workshop.do(failpoint, after=rng.randint(1, 2) if is_late else 0)
        assert not workshop.do()
        workshop.check_whole()
    return kills


def test_at_least_fifty_kills_and_nothing_is_lost_or_done_twice(workshop: Workshop) -> None:
    kills = crash(workshop, 3, seed=1)
    print("kills by phase:", dict(kills))
    assert sum(kills.values()) >= 50
    assert min(kills[phase] for phase in PHASES) > 0, f"a phase was never hit: {kills}"


@pytest.mark.slow
@pytest.mark.skipif("GIRL_MANY_KILLS" not in os.environ, reason="200 kills take minutes: set GIRL_MANY_KILLS=1")
def test_at_least_two_hundred_kills(workshop: Workshop) -> None:
    kills = Counter[str]()
    for seed in range(2, 6):
        kills += crash(workshop, 3, seed)
    print("kills by phase:", dict(kills))
    assert sum(kills.values()) >= 200
    assert min(kills[phase] for phase in PHASES) > 0, f"a phase was never hit: {kills}"


def _girl(folder: Path, seconds_a_chunk: float) -> subprocess.Popen[str]:
    config = ["--config", str(folder / "girl.yaml"), "--set", "sampling.top_p=0.9"]
    command = [*COMMAND, "girl", "materialize", *config, "--anyway"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**ENVIRONMENT, "SECONDS_A_CHUNK": str(seconds_a_chunk)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_the_first_chunk(folder: Path) -> None:
    deadline = time.monotonic() + 120
    notes = folder / "generated.txt"
    while not (notes.exists() and notes.stat().st_size):
        assert time.monotonic() < deadline, "the job never began"
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_chunk_and_names_the_command_that_resumes(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    config = make_inputs(tmp_path)
    process = _girl(tmp_path, 0.5)
    _wait_for_the_first_chunk(tmp_path)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == code, errors
    assert f"resume with: girl materialize --config {tmp_path}/girl.yaml --set sampling.top_p=0.9 --anyway" in errors
    held = ids_of(PartsStore(config.store_dir), "generated_jds", "failures")
    noted = set((tmp_path / "generated.txt").read_text().splitlines())
    assert noted <= {cv_text(int(name.removeprefix("s"))) for name in held}, "nothing generated is thrown away"
    assert 4 <= len(held) < N_CVS, "what was being generated is committed, the rest is not begun"
    assert len(held) % 4 == 0
    (record,) = RunLog(config.runs_dir).records()
    assert (record.status, record.totals["stopped"]) == ("stopped", True)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    config = make_inputs(tmp_path)
    process = _girl(tmp_path, 600)
    _wait_for_the_first_chunk(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "again to stop at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM, "long before the chunk's ten minutes"
    assert RunLog(config.runs_dir).records()[-1].status == "killed"


def _materialize(folder: Path, n: int = N_CVS) -> Any:
    """The job over `n` CVs in this process, without the publishing."""
    config = make_inputs(folder, n)
    models = models_of(config)
    with load(config.tables) as tables:
        return materialize(
            tables,
            models.generator,
            HashingEncoder(),
            models.contract,
            PartsStore(config.store_dir),
            chunk_size=config.chunk_size,
            run="test-run",
            engine="template",
        )


def _is_resumed_after_room_is_made(folder: Path, store: PartsStore, n_before: int) -> None:
    assert len(ids_of(store, "generated_jds", "failures")) == n_before
    assert list(store.root.rglob(".tmp-*")) == []
    assert _materialize(folder).n_unchanged > 0
    assert sorted(ids_of(store, "generated_jds", "failures")) == sorted(f"s{i}" for i in range(N_CVS))


def test_a_full_disk_names_path_and_bytes_and_leaves_old_data(tmp_path: Path) -> None:
    disk = tmp_path / "workspace"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        store = PartsStore(disk / "store")
        _materialize(tmp_path, 20)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        filler_bytes = filler.stat().st_size
        os.truncate(filler, filler_bytes - 3 * 4096)  # room for a part or two, then none
        with pytest.raises(StoreError, match=rf"cannot write {disk}/store/\S+ \([\d,]+ bytes wanted\): No space left"):
            _materialize(tmp_path)
        n_before = len(ids_of(store, "generated_jds", "failures"))
        assert n_before >= 20, "what was there is there"
        filler.unlink()
        _is_resumed_after_room_is_made(tmp_path, store, n_before)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_is_an_error_of_the_same_kind(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "workspace" / "store")
    _materialize(tmp_path, 20)
    n_before = len(ids_of(store, "generated_jds", "failures"))
    make_inputs(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write_part = store.write_part  # DuckDB's own files would hit the limit first: lower it once they are read

    class Limited(PartsStore):
        def write_part(self, view: str, fingerprint: str, table: Any) -> Path:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
            try:
                return write_part(view, fingerprint, table)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        config = make_inputs(tmp_path)
        with load(config.tables) as tables, pytest.raises(StoreError, match=r"bytes wanted\): File too large"):
            materialize(
                tables,
                models_of(config).generator,
                HashingEncoder(),
                models_of(config).contract,
                Limited(store.root),
                chunk_size=4,
                run="test-run",
                engine="template",
            )
    finally:
        signal.signal(signal.SIGXFSZ, before)
    _is_resumed_after_room_is_made(tmp_path, store, n_before)


@pytest.mark.parametrize("n_good", [0, 3, 8, 15])
def test_a_failing_fsync_stops_the_job_and_the_next_one_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_good: int
) -> None:
    calls, fsync = itertools.count(), os.fsync

    def failing(descriptor: int) -> None:
        if next(calls) >= n_good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    store = PartsStore(tmp_path / "workspace" / "store")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(StoreError, match=r"cannot write \S+ \([\d,]+ bytes wanted\): Input/output error"):
            _materialize(tmp_path)
    before = ids_of(store, "generated_jds", "failures")
    assert len(before) == len(set(before)) < N_CVS
    _materialize(tmp_path)
    assert sorted(ids_of(store, "generated_jds", "failures")) == sorted(f"s{i}" for i in range(N_CVS))


def _measured(folder: Path, limit: Callable[[], None]) -> dict[str, Any]:
    """The job over the tables in `folder`, in a process that calls `limit` first; its report."""
    done = subprocess.run(
        [*COMMAND, "measure", str(folder)],
        cwd=ROOT,
        env={**ENVIRONMENT, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _write_cvs(folder: Path, text: str, n: int) -> None:
    """`n` CVs of the SQL expression `text` over i, written without holding them."""
    make_inputs(folder, 0)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"COPY (SELECT 's' || i AS job_seeker_id, {text} AS cv, TIMESTAMPTZ '2020-01-12' AS updated_at "
            f"FROM range({n}) AS r(i)) TO '{folder}/job_seekers.parquet' (ROW_GROUP_SIZE 2048)"
        )


def test_a_cv_of_50_mb_is_cut_and_counted_within_3_gb(tmp_path: Path) -> None:
    long = "'Welder, ten years in shipyards, nights as well' || repeat(' and on', 7500000)"
    _write_cvs(tmp_path, f"CASE i WHEN 3 THEN {long} ELSE 'cv number ' || i END", 6)
    report = _measured(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30)))
    assert (report["n_generated"], report["n_failed"]) == (6, 0)
    assert report["n_cv_truncated"] == 1
    assert report["longest_cv"] == 100_000, "what the generator was given of it"
    assert report["n_encoder_truncated"] >= 1


@pytest.mark.slow
@pytest.mark.skipif("GIRL_MANY_KILLS" not in os.environ, reason="4 GB of CVs take minutes: set GIRL_MANY_KILLS=1")
def test_cvs_of_4_gb_in_3_gb(tmp_path: Path) -> None:
    n = 250_000
    _write_cvs(tmp_path, "repeat(md5(i::VARCHAR) || ' ', 500)", n)
    group = Path(f"/sys/fs/cgroup/memory/girl-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(3 << 30))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        report = _measured(tmp_path, lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None)
    finally:
        group.rmdir()
    print(report)
    assert report["n_generated"] + report["n_failed"] == n  # some MD5s have too few letters to make a JD of
    assert set(report["failures"]) <= {"malformed"}
