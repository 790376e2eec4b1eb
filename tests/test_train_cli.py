"""`girl train`: the stages by hand and all together, twice, and as the paper prints it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.config import load_config
from girl_features.errors import UnknownContractError
from girl_features.evaluation.run import materialized_generators
from girl_features.generator.opening import find_generator, make_contract
from girl_features.store.parts import PartsStore
from girl_features.trainers import trl_common
from girl_features.trainers.trl_common import last_checkpoint
from tests.fakes import HashingEncoder
from tests.input_tables import write_tables
from tests.training_world import SETTINGS, WINDOWS, market


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("train")
    tables = json.loads(write_tables(folder, market(120)).model_dump_json(exclude_none=True))
    windows = {name: end.isoformat() for name, end in WINDOWS._asdict().items()}
    sections = {**SETTINGS, "reward": {**SETTINGS["reward"], "epochs": 1}}
    path = folder / "girl.yaml"
    path.write_text(yaml.safe_dump({"workspace": "w", "tables": tables, "windows": windows, **sections}))
    return path


def _train(config: Path, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["train", *arguments, "--config", str(config), "--json", "-"])
    assert result.exit_code == 0, repr(result.exception)
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_all_trains_three_stages_and_a_second_time_none(config: Path) -> None:
    first = _train(config, "all")
    assert [first[stage]["stage"] for stage in ("sft", "reward", "ppo")] == ["sft", "reward", "ppo"]  # type: ignore[index]
    assert _train(config, "all") == first
    assert _train(config, "ppo") == first["ppo"]
    assert _train(config, "reward") == first["reward"]
    assert (Path(first["ppo"]["folder"]) / "girl.yaml").is_file()  # type: ignore[index]
    for stage in ("sft", "ppo"):
        metrics, gate = first[stage]["metrics"], first[stage]["gate"]  # type: ignore[index]
        ratio = metrics["heldout_bits_per_character"] / metrics["unigram_bits_per_character"]
        assert gate["measures"]["held_out_bits"]["value"] == pytest.approx(ratio)
    assert "gate" not in first["reward"]  # type: ignore[operator]


def test_the_next_command_is_named(config: Path) -> None:
    for stage, missing in (("reward", "sft"), ("ppo", "sft")):
        arguments = ["train", stage, "--config", str(config), "--set", "workspace=other"]
        assert f"run `girl train {missing}` first" in str(CliRunner().invoke(app, arguments).exception)


def test_paper_literal_sets_what_the_paper_prints(config: Path) -> None:
    _train(config, "all")
    record = _train(config, "ppo", "--paper-literal", "--set", "ppo.iterations=2")
    settings = record["settings"]
    assert {k: settings[k] for k in ("kl_penalty", "ratio", "advantage", "target_kl")} == {  # type: ignore[index]
        "kl_penalty": "paper_kl",
        "ratio": "frozen",
        "advantage": "plain",
        "target_kl": None,
    }


def test_each_materialized_stage_is_a_row_of_the_comparison(config: Path) -> None:
    _train(config, "all", "--force")
    resolved, encoder = load_config(config), HashingEncoder()
    with pytest.raises(UnknownContractError):
        materialized_generators(resolved, encoder)
    store = PartsStore(resolved.store_dir)
    store.save_contract(make_contract(resolved, find_generator(resolved)[1], encoder))
    assert list(materialized_generators(resolved, encoder)) == ["girl"]
    stage_1 = load_config(config, ["generator.stage=sft"])
    store.save_contract(make_contract(stage_1, find_generator(stage_1)[1], encoder))
    rows = materialized_generators(resolved, encoder)
    assert list(rows) == ["girl-sft", "girl"]
    assert [record.stage for _, record in rows.values()] == ["sft", "ppo"]
    assert list(materialized_generators(stage_1, encoder)) == ["girl-sft"]


@pytest.mark.slow
def test_two_processes_train_the_stages_together(config: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = tmp_path / "girl.py"
    script.write_text("from girl_features.cli import main\n\nmain()\n")
    workspace = tmp_path / "two"
    for stages in (["all"], ["ppo", "--algo", "rloo"]):
        arguments = ["train", *stages, "--config", str(config), "--set", f"workspace={workspace}", "--json", "-"]
        done = subprocess.run([*launch, str(script), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        json.loads(done.stdout)  # one result, from one process
    folders = {p.name.split("-")[0] for name in ("generators", "rewards") for p in (workspace / name).iterdir()}
    assert folders == {"sft", "reward", "ppo", "rloo"}, "nothing half made is left"


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--set", f"workspace={tmp_path}", "--set", "sft.epochs=20", "--set", "sft.patience=20"]
    # a shell that starts the tests in the background has switched the signal off
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from girl_features.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "sft", "--config", str(config), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("generators/.sft-*/steps/checkpoint-*/hashes.json")):
            assert process.poll() is None, "it ended before it was stopped"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert errors.endswith("stopped; the same command goes on from the last checkpoint, if there is one yet\n")
    assert "Traceback" not in errors
    (steps,) = tmp_path.glob("generators/.sft-*/steps")
    before = last_checkpoint(steps)
    assert before is not None

    saved: list[int] = []
    monkeypatch.setattr(trl_common, "write_hashes", lambda folder: saved.append(_step(folder)))
    trained = _train(config, "sft", *arguments)
    assert len(saved) < 20 and min(saved) > _step(Path(before)), "the epochs that were done are not done again"
    assert [path.name for path in (tmp_path / "generators").iterdir()] == [Path(str(trained["folder"])).name]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
