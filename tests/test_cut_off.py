"""Knowledge cut-off of a base: every stage keeps it, and a later one takes effect without training again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from girl_features.config import GirlConfig
from girl_features.errors import ConfigError
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
