"""The short prompt: an untuned and a tuned base read it, under a contract of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from girl_features.config import GirlConfig
from girl_features.errors import CheckpointError
from girl_features.generator.checkpoint import read_record
from girl_features.generator.opening import find_generator, load_models
from girl_features.generator.prompts import PLAIN, PLAIN_SHORT, TINY, style_of, template_for
from girl_features.generator.tokens import open_codec
from girl_features.trainers.sft import train_sft
from girl_features.trainers.written_jds import JDTask
from tests.input_tables import load, write_tables
from tests.small_bases import CHATML, save_base, small_tokenizer
from tests.training_world import SFT_SETTINGS, SFT_WINDOWS, sft_config, sft_rows


@pytest.mark.parametrize(("template", "names"), [(None, ("plain", "plain-short")), (CHATML, ("chat", "chat-short"))])
def test_each_style_is_a_version_of_its_own(template: str | None, names: tuple[str, str]) -> None:
    tokenizer = small_tokenizer(template)
    full, short = template_for(tokenizer), template_for(tokenizer, "short")
    assert full == template_for(tokenizer, "full")
    assert [prompt.name.rpartition("-")[0] for prompt in (full, short)] == list(names)
    assert [style_of(prompt.version) for prompt in (full, short)] == ["full", "short"]
    assert full.version != short.version
    whole = short.before_cv + short.after_cv
    assert "Duties:" in whole and "Skills:" in whole and "Duties:" not in full.before_cv


def test_the_prompts_of_trained_generators_stay_as_they_are() -> None:
    """A generator that was trained on one of these versions refuses to run with another."""
    assert (TINY.version, PLAIN.version) == ("tiny-1:94ddd063", "plain-1:0fbe660a")
    assert style_of(TINY.version) == "full"
    assert PLAIN_SHORT.version == "plain-short-1:2f429c0e"


def test_tiny_has_no_short_prompt(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"'tiny' has no words; for shorter JDs lower `sft\.max_jd_tokens`"):
        short_config(tmp_path, base="tiny")


def short_config(folder: Path, base: str | None = None, **generator: Any) -> GirlConfig:
    base = base or str(save_base(folder / "base", small_tokenizer(CHATML), ends=[2, 5]))
    given = {"base": base, "prompt": "short", "max_cv_tokens": 24, "engine": "transformers", **generator}
    return sft_config(folder / "workspace", generator={"trained_until": "2010-01-01", **given}, sft=SFT_SETTINGS["sft"])


def test_an_untuned_base_reads_it(tmp_path: Path) -> None:
    config = short_config(tmp_path)
    models = load_models(config)
    assert style_of(models.contract.prompt_version) == "short"
    [[text]] = models.generator.generate(["a cook"], [[1]])
    assert models.folder is not None
    short = open_codec(models.folder, 24, 16, "short")
    assert text.n_prompt_tokens == len(short.requests(["a cook"], [[1]])[0].prompt.ids)
    full = config.model_copy(update={"generator": config.generator.model_copy(update={"prompt": "full"})})
    assert load_models(full).contract.fingerprint != models.contract.fingerprint


def test_a_generator_that_was_tuned_on_it_reads_it(tmp_path: Path) -> None:
    config = short_config(tmp_path)
    with load(write_tables(tmp_path, sft_rows())) as tables:
        folder = train_sft(tables, SFT_WINDOWS, config)
    record = read_record(folder)
    assert record.prompt_version.startswith("chat-short-1:")
    assert find_generator(config)[0] == folder
    models = load_models(config)
    assert models.contract.prompt_version == record.prompt_version
    full = config.generator.model_copy(update={"prompt": "full", "trained_until": None})
    with pytest.raises(CheckpointError, match="was trained with these settings"):
        find_generator(config.model_copy(update={"generator": full}))


def test_reinforcement_learning_reads_it(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(CHATML)
    tasks = [JDTask(["cook"], tokenizer, 8, _NoReward(), 0.0, 0.0, [5], style) for style in ("full", "short")]  # type: ignore[arg-type]
    codec = open_codec(save_base(tmp_path / "base", tokenizer, ends=[2, 5]), 8, 8, "short")
    assert tasks[1].prompts == [codec.requests(["cook"], [[1]])[0].prompt.ids]
    assert tasks[0].prompts != tasks[1].prompts


class _NoReward:
    def encode(self, cv: str, jd: str) -> Any:
        return self

    ids = (1,)
