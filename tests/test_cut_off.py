"""Knowledge cut-off of a base: every stage keeps it, and a later one takes effect without training again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.config import GirlConfig
from girl_features.errors import CheckpointError, ConfigError
from girl_features.generator.checkpoint import REWARD_RECORD_NAME, read_record
from girl_features.generator.opening import find_generator
from girl_features.trainers.reward import train_reward
from girl_features.trainers.rl import train_ppo
from girl_features.trainers.sft import train_sft
from tests.input_tables import load, write_tables
from tests.small_bases import CHATML, save_base, small_tokenizer
from tests.training_world import SFT_WINDOWS, WINDOWS, config_for, market, sft_config, sft_rows

PPO = {"iterations": 1, "evaluate_every": 1, "critic_warmup": 0, "stop_kl": 1e9}
LATE = datetime(2031, 1, 1, tzinfo=UTC)


def base_of(folder: Path) -> str:
    return str(save_base(folder / "base", small_tokenizer(CHATML), ends=[2, 5]))


def test_later_stages_know_what_the_base_knows(tmp_path: Path) -> None:
    generator = {"base": base_of(tmp_path), "trained_until": LATE.isoformat()}
    config = config_for(tmp_path / "w", generator=generator, reward={"epochs": 1}, ppo=PPO)
    with load(write_tables(tmp_path, market(120))) as tables:
        train_sft(tables, WINDOWS, config)
        reward = train_reward(tables, WINDOWS, config)
        ppo = train_ppo(tables, WINDOWS, config)
    assert read_record(reward, REWARD_RECORD_NAME).trained_until == LATE
    assert read_record(ppo).trained_until == LATE
    assert find_generator(config)[1].trained_until == LATE


def test_a_base_of_the_reward_model_has_a_cut_off_too(tmp_path: Path) -> None:
    config = config_for(tmp_path / "w", reward={"base": base_of(tmp_path), "epochs": 1})
    with load(write_tables(tmp_path, market(120))) as tables:
        train_sft(tables, WINDOWS, config)
        with pytest.raises(ConfigError, match=r"`reward\.base`.*set `generator\.trained_until`"):
            train_reward(tables, WINDOWS, config)
        known = config.generator.model_copy(update={"trained_until": LATE})
        folder = train_reward(tables, WINDOWS, config.model_copy(update={"generator": known}))
    assert read_record(folder, REWARD_RECORD_NAME).trained_until == LATE


def test_an_untuned_base_takes_no_trained_ones_place_unasked(tmp_path: Path) -> None:
    """A changed setting of training must not let a nightly batch fill the store with the JDs of the untuned base."""
    base = base_of(tmp_path)
    config = sft_of(tmp_path, "2010-01-01", base=base)
    assert find_generator(config)[1].stage == "untuned", "nothing was trained yet"
    with load(write_tables(tmp_path, sft_rows())) as tables:
        trained = train_sft(tables, SFT_WINDOWS, config)
    assert find_generator(config)[0] == trained
    changed = config.model_copy(update={"sft": config.sft.model_copy(update={"batch_size": 2})})
    with pytest.raises(CheckpointError, match=r"with these settings.*`generator\.stage` to `untuned`"):
        find_generator(changed)
    asked = config.generator.model_copy(update={"stage": "untuned"})
    assert find_generator(config.model_copy(update={"generator": asked}))[1].stage == "untuned"


def test_check_says_that_the_base_knows_of_the_ranking_windows(tmp_path: Path) -> None:
    tables = write_tables(tmp_path).model_dump(exclude_defaults=True, mode="json")
    path = tmp_path / "girl.yaml"

    def notes(**generator: Any) -> str:
        path.write_text(json.dumps({"tables": tables, "generator": generator}))
        result = CliRunner().invoke(app, ["check", "--config", str(path), "--json", "-"])
        return " ".join(note["message"] for note in json.loads(result.stdout)["tables"]["notes"])

    assert "'smollm2' may know what happened until 2025-02-08" in notes(base="smollm2")
    assert "move `windows.rl_end`" in notes(base="smollm2")
    assert "may know" not in notes(base="smollm2", trained_until="1990-01-01")
    assert "may know" not in notes(base="tiny", trained_until=LATE.isoformat())


def sft_of(folder: Path, until: str, **generator: Any) -> GirlConfig:
    given = {"max_cv_tokens": 24, "trained_until": until, **generator}
    return sft_config(folder / "w", generator=given, sft={"epochs": 1, "max_jd_tokens": 16, "batch_size": 4})


def test_a_later_cut_off_takes_effect_at_once_and_is_kept_by_training(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    with load(write_tables(tmp_path, sft_rows())) as tables:
        folder = train_sft(tables, SFT_WINDOWS, sft_of(tmp_path, "2010-01-01", base=base))
        assert read_record(folder).trained_until == SFT_WINDOWS.sft_end
        late = sft_of(tmp_path, LATE.isoformat(), base=base)
        found, record = find_generator(late)
        assert (found, record.trained_until) == (folder, LATE), "before it is trained again"
        assert train_sft(tables, SFT_WINDOWS, late) == folder, "equal weights are not trained twice"
        assert read_record(folder).trained_until == LATE
        assert train_sft(tables, SFT_WINDOWS, sft_of(tmp_path, "2010-01-01", base=base)) == folder
        assert read_record(folder).trained_until == SFT_WINDOWS.sft_end
