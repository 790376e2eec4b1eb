"""The Airflow DAG and the Dagster job: imported, and run with a `girl` that ends as it is told."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
Script = Callable[[dict[str, list[int]]], Path]
DESCRIBE = """
import json
from girl_features.integrations.airflow_dag import dag
tasks = {t.task_id: [t.bash_command, t.env, t.append_env, t.retries, sorted(t.downstream_task_ids)] for t in dag.tasks}
print(json.dumps({"dag": [dag.dag_id, dag.catchup, dag.max_active_runs], **tasks}))
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Writes a `girl` whose commands end with the given codes, in turn, and which notes how it was called."""
    monkeypatch.setenv("GIRL", str(tmp_path / "girl"))
    monkeypatch.setenv("GIRL_CONFIG", "night.yaml")
    monkeypatch.setenv("GIRL_RETRY_SECONDS", "0")

    def write(codes: dict[str, list[int]]) -> Path:
        (tmp_path / "girl").write_text(
            f"#!{sys.executable}\n"
            "import pathlib, sys\n"
            f"notes, codes = pathlib.Path({str(tmp_path / 'calls.txt')!r}), {codes!r}[sys.argv[1]]\n"
            "notes.touch()\n"
            "n = sum(line.startswith(sys.argv[1]) for line in notes.read_text().splitlines())\n"
            "notes.open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            "sys.exit(codes[n])\n"
        )
        (tmp_path / "girl").chmod(0o755)
        return tmp_path / "calls.txt"

    return write


def _airflow(folder: Path) -> dict[str, Any]:
    """The DAG as Airflow reads it, in a process of its own: its import sets up logging and makes folders."""
    env = {**os.environ, "AIRFLOW_HOME": str(folder / "airflow")}
    command = [sys.executable, "-c", DESCRIBE]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def _run(task: list[Any]) -> int:
    """What the operator runs, in the environment it gives; `execute` itself wants Airflow's database."""
    command, env, append_env, *_ = task
    assert append_env
    return subprocess.run(["bash", "-c", command], env={**os.environ, **env}).returncode


def test_the_airflow_dag_goes_on_when_some_cvs_failed_and_tries_again_else(tmp_path: Path, script: Script) -> None:
    calls = script({"materialize": [0, 1, 2, 143], "verify": [0, 1]})
    read = _airflow(tmp_path)
    assert read["dag"] == ["girl_nightly", False, 1]
    assert read["materialize"][-2:] == [2, ["verify"]]
    assert [_run(read["materialize"]) == 0 for _ in range(4)] == [True, True, False, False]
    assert [_run(read["verify"]) for _ in range(2)] == [0, 1]
    lines = ["materialize --config night.yaml"] * 4 + ["verify --config night.yaml"] * 2
    assert calls.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("materialize", "verify", "succeeds", "calls"),
    [
        ([0], [0], True, ["materialize", "verify"]),
        ([1], [0], True, ["materialize", "verify"]),
        ([2], [0], False, ["materialize"]),
        ([143, 0], [0], True, ["materialize", "materialize", "verify"]),
        ([0], [1], False, ["materialize", "verify"]),
    ],
)
def test_the_dagster_job_does_what_the_exit_codes_say(
    script: Script, materialize: list[int], verify: list[int], succeeds: bool, calls: list[str]
) -> None:
    notes = script({"materialize": materialize, "verify": verify})
    sys.modules.pop("girl_features.integrations.dagster_job", None)  # it reads the environment
    module = importlib.import_module("girl_features.integrations.dagster_job")
    job = module.definitions.resolve_job_def("girl_nightly")
    assert job.execute_in_process(raise_on_error=False).success == succeeds
    assert notes.read_text().splitlines() == [f"{call} --config night.yaml" for call in calls]
