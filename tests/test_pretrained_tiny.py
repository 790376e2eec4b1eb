"""The pretrained `tiny` that is a part of the package: what it is made of, and training on it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.config import SFTConfig
from girl_features.generator.bases.catalogue import TINY_PRETRAINED
from girl_features.generator.bases.finding import find_base, present_base
from girl_features.generator.checkpoint import n_parameters, read_record, weights_hash
from girl_features.generator.opening import load_models
from girl_features.generator.prompts import TINY, template_for
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import settle_tuning
from girl_features.trainers.sft import train_sft
from tests.input_tables import load, write_tables
from tests.training_world import SFT_SETTINGS, SFT_WINDOWS, sft_config, sft_rows

MAX_BYTES = 6_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the base, as a workspace finds it."""
    found = find_base("tiny-pretrained", tmp_path / "bases")
    assert found == present_base("tiny-pretrained", tmp_path / "bases")
    assert not (tmp_path / "bases").exists(), "nothing is copied into the workspace"
    return found


def test_it_is_small_and_has_a_card_that_is_true(folder: Path) -> None:
    files = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".py")) for name in files)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert weights_hash(folder) in card
    assert "python benchmarks/pretrained_tiny.py" in card
    [seeds] = re.findall(r"seeds (\d+) to (\d+)", card)
    assert int(seeds[0]) > 1_000_000_000, "no seed that a user would give to `girl demo`"


def test_it_is_what_the_catalogue_says(folder: Path) -> None:
    model, tokenizer = load_causal_lm(folder)
    assert template_for(tokenizer) == TINY
    assert n_parameters(folder) == TINY_PRETRAINED.n_parameters == model.num_parameters()
    assert model.config.max_position_embeddings == TINY_PRETRAINED.n_positions
    settled = settle_tuning(SFTConfig(), "tiny-pretrained", n_parameters(folder))
    assert (settled.tuning, settled.learning_rate) == ("full", 1e-3)


def test_it_is_tuned_as_it_is(tmp_path: Path) -> None:
    config = sft_config(
        tmp_path / "workspace",
        generator={"base": "tiny-pretrained", "max_cv_tokens": 24, "engine": "transformers"},
        sft={**SFT_SETTINGS["sft"], "epochs": 1},
    )
    with load(write_tables(tmp_path, sft_rows())) as tables:
        trained = train_sft(tables, SFT_WINDOWS, config)
        assert train_sft(tables, SFT_WINDOWS, config) == trained
    record = read_record(trained)
    assert record.trained_until == SFT_WINDOWS.sft_end, "it knows nothing of the world"
    assert "pretrain_steps" not in record.metrics
    models = load_models(config)
    assert models.folder == trained and models.contract.generator == "tiny-pretrained"


def test_it_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "girl.yaml"
    tables = write_tables(tmp_path).model_dump(exclude_defaults=True, mode="json")
    path.write_text(json.dumps({"tables": tables}))
    result = CliRunner().invoke(app, ["bases", "--config", str(path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    shown = result.output[result.output.index("tiny-pretrained") :]
    assert "a part of this package" in shown
    assert "no day: it has read simulated texts only" in shown
