"""A workspace in which nothing is stored yet, and the way commands end before and while they work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from girl_features.batch.run_log import RunLog
from girl_features.cli import app
from girl_features.commands.stopping import StopRequest
from girl_features.errors import GirlError
from girl_features.init_repo import init_repo
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo
from tests.batch_worker import make_inputs
from tests.fakes import feature_contract
from tests.input_tables import day, write_tables
from tests.store_rows import Row, write_rows

ROOT = Path(__file__).resolve().parents[1]


def _run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--config", str(folder / "girl.yaml")])


def _new(folder: Path, state: str) -> Path:
    """Return a new workspace: after `girl init`, after `feast apply` too, or after `girl check` too."""
    init_repo(folder, folder / ".girl" / "store", "girl")
    if state == "without a store":
        for path in sorted((folder / ".girl").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (folder / ".girl").rmdir()
    if state == "checked":
        (folder / "tables").mkdir()
        write_tables(folder / "tables")
        _run(folder, "check")
    if state == "applied by Feast":  # which leaves no backup of the registry
        apply_repo(folder)
        (folder / "data" / "registry.db.backup").unlink()
    return folder


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# command -> exit code and what it says
FIRST = {
    ("doctor",): (0, "nothing is wrong\nnothing is stored yet; next: `girl check`, `girl train sft`, then"),
    ("doctor", "--mend"): (0, "nothing is wrong\nnothing is stored yet; next: "),
    ("verify",): (0, "nothing to compare yet: no rows are stored; `girl materialize` makes them"),
    ("runs",): (0, "no run yet; `girl materialize` starts the first"),
    ("runs", "show", "last"): (2, "no run yet in "),
    ("contracts",): (0, "no contract yet; `girl materialize` makes the first"),
    ("history", "s1"): (1, "nothing is stored yet: `girl materialize` makes the first JDs"),
    ("lookup", "s1"): (2, "holds no contract yet; run `girl materialize` first"),
    ("compact",): (0, "nothing is stored yet; `girl materialize` makes the first rows"),
    ("erase", "--undo", "s1"): (0, "'s1' was not erased: nothing was changed"),
    ("join", "a.parquet", "b.parquet"): (2, "run `girl materialize` first"),
    ("train", "ranker"): (2, "run `girl materialize` first"),
    ("train", "student"): (2, "run `girl materialize` first"),
    ("map", "--from", "a", "--to", "b"): (2, "run `girl materialize` first"),
    ("serve", "--ranker", "nowhere"): (2, "there is no such folder; `girl train ranker` writes one"),
}


@pytest.mark.parametrize("state", ["new", "without a store", "checked", "applied by Feast"])
def test_commands_in_a_new_workspace_say_the_next_step_and_create_nothing(tmp_path: Path, state: str) -> None:
    folder = _new(tmp_path, state)
    before = _names(folder)
    for arguments, (code, text) in FIRST.items():
        result = _run(folder, *arguments)
        if code == 2:
            assert isinstance(result.exception, GirlError), (arguments, result.output)
            assert text in str(result.exception), arguments
        else:
            assert (result.exit_code, result.exception is None or code == 1) == (code, True), (arguments, result.output)
            assert text in result.stdout, arguments
        assert _names(folder) == before, arguments


def test_doctor_is_not_content_with_a_registry_that_was_lost(tmp_path: Path) -> None:
    folder = _new(tmp_path, "new")
    contract = feature_contract()
    store = PartsStore(folder / ".girl" / "store")
    store.save_contract(contract)
    write_rows(store, contract, cvs=[Row("s1", day(1), day(1), [1.0] * 8)])
    result = _run(folder, "doctor")
    assert result.exit_code == 1 and "the registry is missing" in result.stdout
    verified = _run(folder, "verify")
    assert isinstance(verified.exception, GirlError) and "registry is missing" in str(verified.exception)
    assert not (folder / "data").exists()


def test_mending_says_what_is_done_and_what_is_left_to_do(tmp_path: Path) -> None:
    folder = _new(tmp_path, "new")
    contract = feature_contract()
    store = PartsStore(folder / ".girl" / "store")
    store.save_contract(contract)
    write_rows(store, contract, cvs=[Row("s1", day(1), day(1), [1.0] * 8)])
    apply_repo(folder)
    [part] = store.part_paths("cv_vectors", contract.encoder.fingerprint)
    data = bytearray(part.read_bytes())
    data[40] ^= 255
    part.write_bytes(data)
    named = _run(folder, "doctor")
    assert named.exit_code == 1
    assert "set it aside, then run `girl materialize` to make its rows again, and remove the" in named.stdout
    mended = _run(folder, "doctor", "--mend")
    assert mended.exit_code == 0
    assert "done: set it aside; now run `girl materialize`" in mended.stdout
    assert mended.stdout.count("done: ") == 1 and mended.stdout.count(".parquet") == 1
    again = _run(folder, "doctor", "--mend")
    assert "done:" not in again.stdout, "a file that the user has to remove is not done"
    assert "then remove the file yourself" in again.stdout


def _girl(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `girl` after `code`, which may make a step slow."""
    script = f"import sys, time\n{code}\nfrom girl_features.cli import main\nsys.argv = ['girl', *sys.argv[1:]]\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments, "--config", str(folder / "girl.yaml")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW_MODELS = """
import girl_features.batch.local as local
def load_models(config):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(600)
local.load_models = load_models
"""
SLOW_TABLES = """
import girl_features.batch.local as local, girl_features.batch.run as run
from tests.batch_worker import models_of
local.load_models = models_of
def open_tables(config):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(600)
run.open_tables = open_tables
"""
SLOW_QUERY = "from girl_features.sql import connected" + SLOW_TABLES.replace(
    "time.sleep(600)",
    "with connected() as c: c.execute('SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b')",
)


@pytest.mark.parametrize("code", [SLOW_MODELS, SLOW_TABLES, SLOW_QUERY], ids=["models", "tables", "query"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_ends_at_once_before_the_work_begins(
    tmp_path: Path, code: str, number: signal.Signals, status: int
) -> None:
    config = make_inputs(tmp_path)
    process = _girl(tmp_path, code, "materialize")
    assert process.stderr is not None
    lines = []
    while "loading\n" not in lines:
        lines.append(process.stderr.readline())
        assert process.poll() is None, lines
    assert "loading torch and the models' code ...\n" in lines, "the wait is explained"
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors == "stopped before the work began: there was nothing to finish\n"
    assert [record.status for record in RunLog(config.runs_dir).records()] in ([], ["stopped"])


def test_a_signal_during_work_says_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    stop = StopRequest("this chunk of 256 CVs", "girl materialize")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(KeyboardInterrupt):
            stop.receive(signal.SIGINT, None)
        stop = StopRequest("this chunk of 256 CVs", "girl materialize")
        assert not stop.is_made()
        stop.receive(signal.SIGTERM, None)
        assert stop.is_made() and stop.exit_code == 143
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = "finishing this chunk of 256 CVs; Ctrl-C again to stop at once; resume with: girl materialize\n"
    assert capsys.readouterr().err == said


def test_the_estimate_is_the_longest_unit_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = StopRequest("this chunk", "girl materialize")
    for now in (0.0, 30.0, 31.0, 50.0):
        clock[0] = now
        stop.is_made()
    clock[0] = 58.0
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.receive(signal.SIGINT, None)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert "finishing this chunk, about 22 s; Ctrl-C again" in capsys.readouterr().err


def test_each_slow_step_is_announced_on_stderr_and_results_stay_alone(tmp_path: Path) -> None:
    folder = _new(tmp_path, "checked")
    result = _run(folder, "check", "--json", "-")
    assert "reading and checking the tables ...\n" in result.stderr
    json.loads(result.stdout)
    trained = _run(folder, "materialize")
    assert "run `girl train sft` first" in str(trained.exception)
    assert "finding the generator and checking its weights ...\n" in trained.stderr
    assert "loading the encoder" not in trained.stderr, "what is missing is said before anything is loaded"
