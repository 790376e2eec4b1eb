"""A batch in parts learns as the whole batch does, and the remaining time follows from the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)

from girl_features.config import RewardConfig, SFTConfig
from girl_features.progress import Progress
from girl_features.trainers import trl_common
from girl_features.trainers.reward import build_reward_trainer
from girl_features.trainers.sft import build_sft_trainer
from girl_features.trainers.tiny import train_tokenizer
from girl_features.trainers.training_work import TrainingWork
from girl_features.trainers.trl_common import ProgressCallback, rows_at_once

TOKENIZER = train_tokenizer(["abc def ghi. jkl mno. "] * 9, 300)
ENDS = {"vocab_size": len(TOKENIZER), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
FAMILIES = {
    "llama": (LlamaConfig(**ENDS, **SHAPE), LlamaForCausalLM),
    "tied llama": (LlamaConfig(**ENDS, **SHAPE, tie_word_embeddings=True), LlamaForCausalLM),
    "gemma2": (
        Gemma2Config(**ENDS, **SHAPE, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0),
        Gemma2ForCausalLM,
    ),
    "gpt2": (GPT2Config(**ENDS, n_embd=16, n_layer=2, n_head=2, **NO_DROPOUT), GPT2LMHeadModel),
    "bloom": (BloomConfig(**ENDS, hidden_size=16, n_layer=2, n_head=2), BloomForCausalLM),
}


def _new_model(family: str) -> Any:
    config, model_class = FAMILIES[family]
    torch.manual_seed(0)
    return model_class(config).eval()


def _rows(n: int, longest: int = 20) -> list[dict[str, list[int]]]:
    """Rows with prompts and JDs of many lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        prompt, jd = 2 + i * longest // n, 3 + (i * 7) % 11
        ids = torch.randint(4, len(TOKENIZER), (prompt + jd,), generator=generator).tolist()
        rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * jd})
    return rows


def _settings(**changes: Any) -> SFTConfig:
    return SFTConfig(batch_size=4, tuning="full", learning_rate=1e-3, max_steps=1).model_copy(update=changes)


class _Gradients(TrainerCallback):
    """The gradient before the first step, and the loss."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        named = sorted((name, p) for name, p in model.named_parameters() if p.grad is not None)
        self.gradient = torch.cat([p.grad.flatten().clone() for _, p in named])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.loss = logs.get("loss", logs.get("train_loss"))


def _first_step(trainer: Any) -> _Gradients:
    trainer.args.max_grad_norm, trainer.args.save_strategy = 0.0, "no"
    seen = _Gradients()
    trainer.add_callback(seen)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return seen


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_in_parts_and_its_gradients_are_those_of_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, tuning: str
) -> None:
    steps = []
    for at_once in (8, 1):  # a batch has 4 rows, and 2 batches are one step
        monkeypatch.setattr(trl_common, "rows_at_once", lambda batch, size, n=at_once: min(batch, n))
        settings = _settings(tuning=tuning, gradient_accumulation=2)
        steps.append(_first_step(build_sft_trainer(_new_model(family), TOKENIZER, _rows(8), [], settings, tmp_path)))
    whole, parts = steps
    assert parts.loss == pytest.approx(whole.loss, abs=1e-4)  # logs are rounded
    assert whole.gradient.abs().max() > 1e-4
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-7)


def test_the_gradient_of_a_step_is_that_of_the_mean_over_all_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_common, "rows_at_once", lambda batch, size: 1)
    rows, model = _rows(4), _new_model("gpt2")
    total, n = torch.zeros(()), 0
    for row in rows:
        ids, jd = torch.tensor([row["input_ids"]]), sum(row["completion_mask"])
        logits = model(input_ids=ids).logits[0, -jd - 1 : -1]
        total, n = total + torch.nn.functional.cross_entropy(logits, ids[0, -jd:], reduction="sum"), n + jd
    (total / n).backward()
    named = sorted((name, p) for name, p in model.named_parameters())
    expected = torch.cat([p.grad.flatten().clone() for _, p in named])
    model.zero_grad()
    step = _first_step(build_sft_trainer(model, TOKENIZER, rows, [], _settings(), tmp_path))
    assert step.loss == pytest.approx(float(total / n), abs=1e-4)
    torch.testing.assert_close(step.gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_reward_models_batch_in_parts_is_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [row["input_ids"] for row in _rows(8)]
    rows = [{"chosen_ids": a, "rejected_ids": b} for a, b in zip(ids[:4], ids[4:], strict=True)]
    settings = RewardConfig(batch_size=4, tuning="full", learning_rate=1e-3, epochs=1)
    steps = []
    for at_once in (4, 1):
        monkeypatch.setattr(trl_common, "rows_at_once", lambda batch, size, n=at_once: n)
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(LlamaConfig(**ENDS, **SHAPE, num_labels=1)).eval()
        steps.append(_first_step(build_reward_trainer(model, TOKENIZER, rows, settings, tmp_path)))
    whole, parts = steps
    assert parts.loss == pytest.approx(whole.loss, abs=1e-4)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-4, atol=1e-6)


def test_large_models_read_one_row_at_a_time_and_small_ones_the_batch() -> None:
    assert not torch.cuda.is_available()
    assert rows_at_once(8, 135_000_000) == 1
    assert rows_at_once(8, 2_000_000) == 8


class _Recorder(Progress):
    """A progress line that notes the time on `clock` at each call, with steps and share of the work done."""

    clock = 0.0
    seen: list[tuple[float, float, float]] = []  # noqa: RUF012 - set anew by the test

    def advance(self, n: int = 1, share: float | None = None) -> None:
        super().advance(n, share)
        assert share is not None
        type(self).seen.append((type(self).clock, self._task.completed / self._total, share))


def _tell_time(model: Any, args: Any, kwargs: Any) -> None:
    """Let the clock go on by the tokens of a forward pass; learning from a token takes three times as long."""
    _Recorder.clock += kwargs["input_ids"].numel() * (1 if torch.is_grad_enabled() else 1 / 3)


def test_the_remaining_time_is_right_from_the_first_batch_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_common, "rows_at_once", lambda batch, size: 1)
    monkeypatch.setattr(trl_common, "Progress", _Recorder)
    monkeypatch.setattr(_Recorder, "seen", [])
    rows, held_out = _rows(64, longest=200), _rows(20, longest=200)
    settings = _settings(max_steps=-1, epochs=1)
    trainer = build_sft_trainer(_new_model("llama"), TOKENIZER, rows, held_out, settings, tmp_path)
    trainer.model.register_forward_pre_hook(_tell_time, with_kwargs=True)
    n_tokens = [sum(len(row["input_ids"]) for row in part) for part in (rows, held_out)]
    trainer.add_callback(ProgressCallback("sft", TrainingWork(*n_tokens)))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    times, shares = [row[0] for row in _Recorder.seen], [row[2] for row in _Recorder.seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    predicted = [time / share for time, share in zip(times, shares, strict=True)]
    assert max(predicted) < 1.1 * min(predicted)
    assert predicted[0] == pytest.approx(times[-1], rel=0.1)
    by_steps = [time / done for time, done, _ in _Recorder.seen]
    assert by_steps[0] > 1.3 * times[-1], "the longest rows come first, so steps would promise too long a time"
