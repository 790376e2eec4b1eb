"""The batch job on a real Ray of two workers: the local job's rows, and what a killed driver or worker leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.batch.local import local_chunks
from girl_features.batch.run import MaterializeReport, run_batch
from girl_features.batch.run_log import RunLog
from girl_features.cli import app, main
from girl_features.config import GirlConfig, RayConfig
from girl_features.errors import ClusterError, GateError, MissingExtraError
from girl_features.integrations.ray_cluster import MAX_TRIES, ChunkGate, import_ray, n_workers
from girl_features.integrations.ray_data import run_on_ray
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import VIEWS
from tests.input_tables import day, write_tables
from tests.ray_job import SOURCE, contract_of, models_of

ROOT = Path(__file__).parents[1]
CHUNK = 4
N_CVS, N_JOBS = 40, 6
N_FAILING = 5
OWN = ("run", "created_timestamp", "seconds")  # columns that no two runs share


def _cv(i: int) -> str:
    """One is blank, some can only fail, one kills the first worker that meets it; lengths differ."""
    kinds = {3: "", 17: "fragile"}
    return kinds.get(i, f"cv number {i} " + "x" * (i % 7) + (" in circles" if i % 8 == 0 else ""))


def _inputs(folder: Path, cvs: list[str], **settings: Any) -> GirlConfig:
    rows = [(f"s{i}", cv, day(11)) for i, cv in enumerate(cvs)]
    jobs = [(f"j{i}", f"job number {i}", day(1)) for i in range(N_JOBS)]
    tables = write_tables(folder, {"job_seekers": rows, "jobs": jobs, "interactions": []})
    config = {"workspace": str(folder / "workspace"), "tables": tables.model_dump(), "chunk_size": CHUNK}
    config |= {"ray": {"workers": 2}, **settings}
    (folder / "girl.yaml").write_text(yaml.safe_dump(config))
    return GirlConfig.model_validate(config)


def _rows(config: GirlConfig, view: str) -> list[tuple[Any, ...]]:
    contract = contract_of(config)
    fingerprint = contract.encoder.fingerprint if view.endswith("vectors") else contract.fingerprint
    relation = PartsStore(config.store_dir).scan(view, fingerprint)
    if relation is None:
        return []
    names = [name for name in VIEWS[view].schema.names if name not in OWN]
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT {', '.join(names)} FROM {relation} ORDER BY ALL").fetchall()


def _done(config: GirlConfig) -> Counter[str]:
    """How many rows say of each seeker that nothing is left to do."""
    return Counter(row[0] for view in ("generated_jds", "failures") for row in _rows(config, view))


def _noted(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray with two CPUs, which outlives its drivers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # it kills workers where other programs fill the memory
        patch.delenv("RAY_ADDRESS", raising=False)
        import_ray(RayConfig())
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        yield str(ray.get_runtime_context().gcs_address)
        ray.shutdown()


class Both(NamedTuple):
    """The same tables, on Ray and in this process."""

    on_ray: GirlConfig
    local: GirlConfig
    ray_report: MaterializeReport
    local_report: MaterializeReport


@pytest.fixture(scope="module")
def both(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Both:
    configs = []
    for name in ("ray", "local"):
        folder = tmp_path_factory.mktemp(name)
        configs.append(_inputs(folder, [_cv(i) for i in range(N_CVS)], sampling={"n": 2}))
    on_ray, local = configs
    (local.workspace.parent / "died.txt").write_text("")  # only a worker may die
    models = models_of(local)
    ray_report = run_on_ray(on_ray, source=SOURCE, anyway=True)
    return Both(on_ray, local, ray_report, run_batch(local, models.contract, local_chunks(models)))


@pytest.mark.parametrize("view", VIEWS)
def test_rows_are_those_of_the_local_job_though_a_worker_died(both: Both, view: str) -> None:
    rows = _rows(both.on_ray, view)
    n_rows = {"cv_vectors": N_CVS, "jd_vectors": N_JOBS, "generated_jds": N_CVS - N_FAILING - 1, "failures": 6}
    assert len(rows) == n_rows[view]
    assert rows == _rows(both.local, view)


def test_the_report_is_that_of_the_local_job(both: Both) -> None:
    own = {"run", "seconds", "generate_seconds", "gate"}  # the local job is called below the gate
    shared = [
        {k: v for k, v in vars(report).items() if k not in own} for report in (both.ray_report, both.local_report)
    ]
    assert shared[0] == shared[1]
    assert (both.ray_report.n_failed, both.ray_report.n_no_cv, both.ray_report.stopped) == (N_FAILING, 1, False)


def test_workers_load_the_models_once_and_generate_again_only_what_a_dead_one_held(both: Both) -> None:
    folder = both.on_ray.workspace.parent
    loads = _noted(folder, "loaded.txt")
    assert len(loads) == len(set(loads)) == 3, "two workers, and the one in the dead one's place"
    assert str(os.getpid()) not in loads, "the driver loads no generator"
    local = Counter(_noted(both.local.workspace.parent, "generated.txt"))
    again = Counter(_noted(folder, "generated.txt")) - local
    assert "fragile" in again
    assert again.total() <= CHUNK, "one chunk"


def test_a_second_run_does_nothing_and_needs_no_worker(both: Both) -> None:
    n_loads = len(_noted(both.on_ray.workspace.parent, "loaded.txt"))
    again = run_on_ray(both.on_ray, source=SOURCE, anyway=True)
    assert (again.n_planned, again.n_unchanged) == (0, N_CVS - N_FAILING - 1)
    assert len(_noted(both.on_ray.workspace.parent, "loaded.txt")) == n_loads


def _girl(folder: Path, address: str, seconds_a_chunk: float) -> subprocess.Popen[str]:
    (folder / "seconds.txt").write_text(str(seconds_a_chunk))
    command = [sys.executable, "-m", "tests.ray_job", "girl", "materialize", "--on", "ray", "--anyway"]
    return subprocess.Popen(
        [*command, "--config", str(folder / "girl.yaml"), "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(until: Any, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def _is_gone(pid: str) -> bool:
    stat = Path("/proc") / pid / "stat"
    return not stat.exists() or ") Z " in stat.read_text()


def test_a_killed_driver_loses_nothing_and_the_next_run_goes_on(cluster: str, tmp_path: Path) -> None:
    config = _inputs(tmp_path, [f"cv number {i}" for i in range(N_CVS)])
    process = _girl(tmp_path, cluster, 0.4)
    _wait(lambda: len(_done(config)) >= CHUNK, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _wait(lambda: all(_is_gone(pid) for pid in _noted(tmp_path, "loaded.txt")))  # the cluster goes on, they do not
    committed, noted = _done(config), _noted(tmp_path, "generated.txt")
    assert CHUNK <= len(committed) < N_CVS
    in_hand = set(noted) - {f"cv number {name[1:]}" for name in committed}
    assert len(in_hand) <= 2 * 2 * CHUNK, "a chunk or two a worker"
    (tmp_path / "seconds.txt").unlink()

    report = run_on_ray(config, source=SOURCE, anyway=True)
    assert report.n_unchanged == len(committed)
    again = Counter(_noted(tmp_path, "generated.txt"))
    assert {cv for cv, n in again.items() if n > 1} == in_hand, "only what no ledger had"
    assert _done(config) == Counter({f"s{i}": 1 for i in range(N_CVS)})
    assert [record.status for record in RunLog(config.runs_dir).records()] == ["killed", "finished"]


def test_sigterm_finishes_the_running_chunks_and_names_the_command_that_resumes(cluster: str, tmp_path: Path) -> None:
    config = _inputs(tmp_path, [f"cv number {i}" for i in range(N_CVS)])
    process = _girl(tmp_path, cluster, 0.6)
    _wait(lambda: len(_noted(tmp_path, "generated.txt")) >= CHUNK, process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert f"resume with: girl materialize --config {tmp_path}/girl.yaml --on ray --anyway" in errors
    assert json.loads(output)["stopped"] is True, "standard output holds the result alone"
    noted = {f"s{cv.split()[-1]}" for cv in _noted(tmp_path, "generated.txt")}
    assert set(_done(config)) == noted, "nothing generated is thrown away"
    assert CHUNK <= len(noted) <= 3 * CHUNK < N_CVS, "what had begun, and no more"


def test_an_error_in_a_worker_is_ours_and_says_what_it_was(cluster: str, tmp_path: Path) -> None:
    config = _inputs(tmp_path, ["a cook", "a broken cook"])
    with pytest.raises(ClusterError, match=r"failed: RuntimeError: the generator is broken; .* resumes"):
        run_on_ray(config, source=SOURCE, anyway=True)
    assert RunLog(config.runs_dir).records()[-1].error == "ClusterError"


@pytest.mark.slow
@pytest.mark.skipif("GIRL_MANY_KILLS" not in os.environ, reason="Ray takes its time to start: set GIRL_MANY_KILLS=1")
def test_a_chunk_that_kills_its_workers_ends_the_run(cluster: str, tmp_path: Path) -> None:
    config = _inputs(tmp_path, ["a deadly cook"])
    with pytest.raises(ClusterError, match=r"failed: ClusterError: 4 workers died over one chunk"):
        run_on_ray(config, source=SOURCE, anyway=True)
    assert _noted(tmp_path, "generated.txt") == ["a deadly cook"] * MAX_TRIES


def test_the_quality_gate_is_asked_by_a_worker_and_once(cluster: str, tmp_path: Path) -> None:
    config = _inputs(tmp_path, [f"cv number {i} in circles" for i in range(12)])
    for _ in range(2):
        with pytest.raises(GateError, match=r"usable 0\.00 \(min 0\.5; 0 of 12 CVs got a JD"):
            run_on_ray(config, source=SOURCE)
    assert len(_noted(tmp_path, "loaded.txt")) == 1
    assert str(os.getpid()) not in _noted(tmp_path, "loaded.txt"), "the driver may have no room for the generator"
    assert RunLog(config.runs_dir).records() == []


def test_the_gate_lets_a_lost_chunk_begin_again() -> None:
    gate = ChunkGate(2)
    assert gate.enter(7) == 1
    assert gate.close() == 1
    assert gate.enter(8) == 0, "closed"
    assert gate.enter(7) == 2, "its worker died"
    assert gate.close() == 1


def test_workers_that_die_while_they_load_are_not_started_for_ever() -> None:
    gate = ChunkGate(2)
    assert all(gate.load() for _ in range(2 * MAX_TRIES))
    assert not gate.load()
    gate.enter(0)
    assert gate.load(), "one that died at work hours later"


def test_a_ray_of_this_machine_wants_a_token_and_its_files_are_its_owners(tmp_path: Path) -> None:
    code = (
        "from girl_features.config import RayConfig\n"
        "from girl_features.integrations.ray_cluster import connected, import_ray\n"
        "settings = RayConfig(workers=1)\n"
        "import_ray(settings)\n"
        "with connected(settings):\n"
        "    import ray; from ray._raylet import AuthenticationMode, get_authentication_mode\n"
        "    assert get_authentication_mode() == AuthenticationMode.TOKEN\n"
        "    print(ray._private.worker._global_node.get_session_dir_path())\n"
        "    input()\n"
    )
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        session = Path(driver.stdout.readline().strip())
        private = next(folder for folder in session.parents if folder.name.startswith("girl-ray-"))
        assert session.is_dir() and private.stat().st_mode & 0o077 == 0, "nobody else gets in"
        assert list(tmp_path.rglob("*")) == [], "the token is in no file"
        driver.communicate("\n", timeout=120)
    assert driver.returncode == 0
    assert not private.exists()


def test_no_room_for_a_worker_is_an_error_before_anything_waits() -> None:
    machine = {"CPU": 2.0, "memory": 1.0}
    assert n_workers(RayConfig(), machine, can_grow=False) == 2
    assert n_workers(RayConfig(cpus_per_worker=2), machine, can_grow=False) == 1
    assert n_workers(RayConfig(workers=5), machine, can_grow=True) == 5, "an autoscaler may bring them"
    with pytest.raises(ClusterError, match="Ray has 2 CPUs and 0 GPUs"):
        n_workers(RayConfig(gpus_per_worker=1), machine, can_grow=True)
    with pytest.raises(ClusterError, match="5 workers of 1 CPUs"):
        n_workers(RayConfig(workers=5), machine, can_grow=False)


def test_without_ray_the_command_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _inputs(tmp_path, ["a cook"])
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import system without it says
    with pytest.raises(MissingExtraError):
        run_on_ray(config, source=SOURCE, anyway=True)
    monkeypatch.setattr(sys, "argv", ["girl", "materialize", "--config", str(tmp_path / "girl.yaml"), "--on", "ray"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "pip install 'girl-features[ray]'" in capsys.readouterr().err
    assert not (config.workspace / "runs").exists()


def test_a_dry_run_is_local(tmp_path: Path) -> None:
    _inputs(tmp_path, ["a cook"])
    result = CliRunner().invoke(app, ["materialize", "-c", str(tmp_path / "girl.yaml"), "--dry-run", "--on", "ray"])
    assert result.exit_code == 2
