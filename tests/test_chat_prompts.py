"""Prompts of real bases: chat templates with dates, thinking and system lines; end tokens; start tokens."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from transformers.utils import chat_template_utils

from girl_features.errors import CheckpointError
from girl_features.generator.prompts import (
    PLAIN,
    ROLE,
    PromptCodec,
    PromptIds,
    encode_prompt,
    end_token,
    instruction,
    template_for,
)
from girl_features.generator.reward_model import encode_pair
from girl_features.generator.thinking import without_thinking
from girl_features.generator.tokens import load_tokenizer, open_codec, stop_ids
from girl_features.trainers.training_data import tokenize_pairs
from tests import small_bases as bases

PROMPT = PromptIds([1], False)


def _id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "</s>"),
        (bases.CHATML, "<|im_end|>"),
        (bases.SMOLLM, "<|im_end|>"),
        (bases.QWEN3, "<|im_end|>"),
        (bases.THINKING, "<|im_end|>"),
        (bases.LLAMA3, "<|eot_id|>"),
        (bases.GEMMA, "<end_of_turn>"),
        (bases.PHI3, "<|end|>"),
        (bases.CHATML.replace("<|im_end|>", "[END]"), "</s>"),  # not a token of its own
    ],
)
def test_training_writes_the_end_of_turn_and_generation_stops_there(
    tmp_path: Path, template: str | None, end: str
) -> None:
    tokenizer = bases.small_tokenizer(template)
    folder = bases.save_base(tmp_path, tokenizer, ends=[2, _id(tokenizer, "<|end|>")])
    ends = stop_ids(folder, tokenizer)
    assert ends[0] == end_token(tokenizer) == _id(tokenizer, end)
    assert set(ends) == {_id(tokenizer, token) for token in (end, "</s>", "<|end|>")}
    pairs = pl.DataFrame({"cv": ["cook"], "jd": ["soups and sauces"]})
    [row] = tokenize_pairs(tokenizer, template_for(tokenizer), pairs, 16, 16).rows
    codec = PromptCodec(tokenizer, 16, ends)
    written = [token for token, counted in zip(row["input_ids"], row["completion_mask"], strict=True) if counted]
    text = codec.decode([*written, *written], PROMPT)
    assert (text.text, text.finish_reason, text.n_new_tokens) == ("soups and sauces", "stop", len(written) - 1)


def test_every_end_that_the_model_names_ends_a_jd(tmp_path: Path) -> None:
    tokenizer = bases.small_tokenizer()
    words = tokenizer("soups", add_special_tokens=False)["input_ids"]
    ends = [2, _id(tokenizer, "<|eot_id|>"), words[0]]
    codec = open_codec(bases.save_base(tmp_path, tokenizer, ends=ends), 16, 16)
    assert codec.stop_ids == ends[:2], "a token of text is none: it is the default of a class, not of this model"
    for end in ends[:2]:
        assert codec.decode([*words, end, *words], PROMPT).finish_reason == "stop"
    assert codec.decode([*words, *words], PROMPT).finish_reason == "length"


@pytest.mark.parametrize("ends", [2, [2, 6]])
def test_without_generation_settings_the_ends_of_the_config_count(tmp_path: Path, ends: Any) -> None:
    folder = bases.save_base(tmp_path, bases.small_tokenizer(), eos_token_id=ends)
    (folder / "generation_config.json").unlink()
    assert stop_ids(folder, load_tokenizer(folder)) == ([2, 6] if isinstance(ends, list) else [2])


@pytest.mark.parametrize("template", [bases.LLAMA3, bases.TODAY])
def test_the_prompt_is_the_same_on_every_day(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    found = set()
    for year in (2025, 2031):
        day = datetime(year, 3, 1)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None, day: datetime = day) -> Any:
                return day

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        tokenizer = bases.small_tokenizer(template)
        assert str(year) in tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
        found.add(template_for(tokenizer))
    assert len(found) == 1
    assert "2024" in found.pop().before_cv


def test_the_system_line_is_ours() -> None:
    for template in (bases.SMOLLM, bases.CHATML, bases.QWEN3, bases.LLAMA3):
        prompt = template_for(bases.small_tokenizer(template))
        assert prompt.name == "chat-2"
        assert "SmolLM" not in prompt.before_cv
        assert f"system\n{ROLE}" in prompt.before_cv.replace("\n\n", "\n")
        assert prompt.before_cv.endswith(f"{instruction()}\n\n")


@pytest.mark.parametrize("template", [bases.GEMMA, bases.USERS_ONLY])
def test_where_a_template_takes_no_system_message_the_user_says_it(template: str) -> None:
    prompt = template_for(bases.small_tokenizer(template))
    assert prompt.before_cv.count(ROLE) == 1
    assert prompt.before_cv.endswith(f"user\n{ROLE}\n{instruction()}\n\n")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (bases.REPEATING, "does not write each message once and unaltered"),
        (bases.ESCAPING, "does not write each message once and unaltered"),
        (bases.SHOUTING, "does not write each message once and unaltered"),
        (bases.BROKEN, "raises TemplateError: no template today"),
        ("{% for", "raises TemplateSyntaxError"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tmp_path: Path, template: str, reason: str) -> None:
    folder = bases.save_base(tmp_path, bases.small_tokenizer(template))
    with pytest.raises(CheckpointError, match=rf"chat template of '{folder}' cannot be used: it {reason}"):
        template_for(load_tokenizer(folder))


@pytest.mark.parametrize(
    ("template", "after"),
    [
        (bases.QWEN3, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (bases.THINKING, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (bases.CHATML, "<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_prompt_starts_no_thinking(template: str, after: str) -> None:
    assert template_for(bases.small_tokenizer(template)).after_cv == after


JD = "Cook\nSoups and sauces"
HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (JD, JD),
        (f"<think>hm</think>\n\n{JD}", JD),
        (f"<thinking>hm\nhm</thinking>{JD}", JD),
        (f"<think>a<think>b</think>c</think>{JD}", JD),
        (f"hm</think>{JD}", JD),
        (f"{JD}<think>hm", JD),
        (f"{JD}<think>hm</think>", JD),
        (f"[THINK]hm[/THINK]{JD}", JD),
        ("<think>hm, a cook", ""),
        ("<think>hm</think>", ""),
        (f"{HARMONY}{JD}", JD),
        ("<|channel|>analysis<|message|>hm, a cook", ""),
        ("We <think ahead> of 3 < 4 cooks", "We <think ahead> of 3 < 4 cooks"),
    ],
)
def test_thinking_is_no_part_of_a_jd(written: str, answer: str) -> None:
    assert without_thinking(written).strip() == answer


@pytest.mark.parametrize("is_special", [False, True])
def test_thinking_is_left_out_where_its_tags_are_tokens(is_special: bool) -> None:
    tokenizer = bases.small_tokenizer(bases.CHATML)
    tags = ["<think>", "</think>"]
    if is_special:
        tokenizer.add_special_tokens({"additional_special_tokens": tags})
    else:
        tokenizer.add_tokens(tags)
    codec = PromptCodec(tokenizer, 16, [5])

    def decoded(text: str) -> Any:
        return codec.decode(tokenizer(text, add_special_tokens=False)["input_ids"], PROMPT)

    assert decoded("<think>soups</think>cook<|end|><|im_end|>nurse").text == "cook"
    only_thinking = decoded("<think>soups and sauces")
    assert (only_thinking.text, only_thinking.finish_reason) == ("", "length")


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("template", [None, bases.CHATML, bases.LLAMA3, bases.GEMMA])
@pytest.mark.parametrize("bos", ["<s>", None])
def test_the_start_token_stands_once_or_never(template: str | None, adds_bos: bool, bos: str | None) -> None:
    tokenizer = bases.small_tokenizer(template, bos=bos, adds_bos=adds_bos)
    writes_bos = template in (bases.LLAMA3, bases.GEMMA) and bos is not None
    ids = encode_prompt(tokenizer, template_for(tokenizer), "cook", 8).ids
    start = _id(tokenizer, "<s>")
    assert ids.count(start) == (adds_bos or writes_bos)
    assert (ids[0] == start) == (adds_bos or writes_bos)


@pytest.mark.parametrize("template", [None, bases.GEMMA])
def test_a_tokenizer_without_pad_gets_one(tmp_path: Path, template: str | None) -> None:
    folder = bases.save_base(tmp_path, bases.small_tokenizer(template))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert encode_pair(tokenizer, PLAIN, "cook", "soups", 8, 8).ids[-1] == tokenizer.eos_token_id


def test_a_tokenizer_without_end_takes_what_template_or_model_say(tmp_path: Path) -> None:
    chat = bases.save_base(tmp_path / "chat", bases.small_tokenizer(bases.GEMMA, eos=None), ends=[2])
    assert load_tokenizer(chat).eos_token == "<end_of_turn>"
    plain = bases.save_base(tmp_path / "plain", bases.small_tokenizer(eos=None), ends=[6, 2])
    assert load_tokenizer(plain).eos_token == "<|eot_id|>"
    no_end = bases.save_base(tmp_path / "none", bases.small_tokenizer(eos=None), eos_token_id=None)
    with pytest.raises(CheckpointError, match=r"none has no end token.*set `eos_token` in its tokenizer_config.json"):
        load_tokenizer(no_end)
