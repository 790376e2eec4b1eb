"""Small data and models that the tests of several training stages share.

`sft_rows` are pairs for stage 1 alone; `market` is a market of four trades for all three stages; `TokenTask` and
`ppo_models` are a world of eight tokens whose best policy is known.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from girl_features.config import GirlConfig, PPOConfig
from girl_features.input.splits import Windows
from girl_features.trainers.rollouts import use_plain_sampling
from girl_features.trainers.written_jds import JDScores, PPOModels
from tests.input_tables import day

TRADES = ("cook", "nurse", "driver", "welder")
WINDOWS = Windows(day(100), day(200), day(300), day(400), day(500))
SETTINGS = {
    "generator": {
        "max_cv_tokens": 24,
        "tiny": {"vocab_size": 400, "hidden_size": 32, "n_layers": 2, "n_heads": 2, "pretrain_epochs": 1},
    },
    "sft": {"epochs": 1, "max_jd_tokens": 16, "batch_size": 8},
    "reward": {"epochs": 15, "learning_rate": 2e-3, "max_jd_tokens": 16, "batch_size": 8, "holdout": 0.25},
    "sampling": {"max_new_tokens": 12},
    "ppo": {
        "iterations": 4,
        "batch_size": 8,
        "minibatch_size": 4,
        "evaluate_every": 2,
        "critic_warmup": 1,
        "holdout": 0.25,
    },
}


def market(n_seekers: int = 48) -> dict[str, list[tuple[object, ...]]]:
    """Seekers of four trades, in the SFT, reward and RL windows in turn; each matches the job of their own trade."""
    seekers, decisions = [], []
    jobs = [(f"j{i}", f"Wanted: a {trade}. Shifts.", day(0)) for i, trade in enumerate(TRADES)]
    for i in range(n_seekers):
        at, own = 5 + 100 * (i % 3), (i // 3) % 4
        seekers.append((f"s{i:03}", f"I am a {TRADES[own]} of {i} years", day(at)))
        decisions.append((f"s{i:03}", f"j{own}", True, day(at + 1)))
        decisions += [(f"s{i:03}", f"j{j}", False, day(at + 2)) for j in range(4) if j != own]
    return {"job_seekers": seekers, "jobs": jobs, "interactions": decisions}


def config_for(workspace: Path, **changes: dict[str, object]) -> GirlConfig:
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    merged = {name: {**section, **changes.get(name, {})} for name, section in SETTINGS.items()}
    return GirlConfig.model_validate({"workspace": workspace, "tables": tables, **merged})


SFT_SETTINGS = {
    "generator": {
        "max_cv_tokens": 24,
        "tiny": {"vocab_size": 400, "hidden_size": 32, "n_layers": 1, "n_heads": 2, "pretrain_epochs": 2},
    },
    "sft": {"epochs": 2, "max_jd_tokens": 16, "batch_size": 4, "holdout": 0.2},
    "sampling": {"max_new_tokens": 16},
}
SFT_WINDOWS = Windows(*(day(100 + i) for i in range(5)))


def sft_rows() -> dict[str, list[tuple[object, ...]]]:
    seekers = [(f"s{i}", f"I was a {TRADES[i % 4]} for {i} years", day(i)) for i in range(20)]
    jobs = [(f"j{i}", f"Wanted: senior {TRADES[i % 4]}. Shifts.", day(i)) for i in range(20)]
    decisions = [(f"s{i}", f"j{i}", True, day(i + 1)) for i in range(20)]
    late = (
        [("late", "the future cv", day(200))],
        [("jlate", "the future jd", day(200))],
        [("late", "jlate", True, day(201))],
    )
    return {
        "job_seekers": [*seekers, *late[0]],
        "jobs": [*jobs, *late[1]],
        "interactions": [*decisions, *late[2]],
    }


def sft_config(workspace: Path, **changes: object) -> GirlConfig:
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    return GirlConfig.model_validate({"workspace": workspace, "tables": tables, **SFT_SETTINGS, **changes})


N_TOKENS, EOS, PAD = 8, 1, 0
PROMPTS = [[2, 3], [4, 5, 6]]
REWARDS = np.linspace(-1, 1, N_TOKENS).astype(np.float32)  # of writing a token


class TokenTask:
    """Two prompts; a completion is one token, and each token has its reward. NaN from call number `nan_from` on."""

    def __init__(self, nan_from: int = 10**9) -> None:
        self.prompts = PROMPTS
        self.critic_rows = PROMPTS
        self._calls, self._nan_from = 0, nan_from

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> JDScores:
        self._calls += 1
        scores = np.array([REWARDS[ids[0]] for ids in completions], np.float32)
        if self._calls >= self._nan_from:
            scores[0] = np.nan
        fine = np.zeros(len(scores), bool)
        return JDScores(scores, np.zeros(len(scores), np.float32), fine, fine, [str(ids[0]) for ids in completions])


def ppo_models(lora: bool = False) -> PPOModels:
    torch.manual_seed(0)
    shape = {"vocab_size": N_TOKENS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None)
    actor = LlamaForCausalLM(config)
    with torch.no_grad():
        actor.lm_head.weight.mul_(20)  # a frozen policy that is not uniform
    critic = LlamaForSequenceClassification(LlamaConfig(**config.to_dict() | {"num_labels": 1}))
    use_plain_sampling(actor, [EOS], PAD)
    if not lora:
        return PPOModels(actor, copy.deepcopy(actor), critic, PAD)
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj", "lm_head"], task_type="CAUSAL_LM"
    )
    return PPOModels(get_peft_model(actor, adapter), None, critic, PAD)


def ppo_settings(**changes: object) -> PPOConfig:
    base = {
        "iterations": 4,
        "batch_size": 16,
        "minibatch_size": 8,
        "learning_rate": 1e-2,
        "critic_learning_rate": 1e-2,
        "critic_warmup": 1,
        "evaluate_every": 2,
        "target_kl": None,
        "kl_weight": 0.5,
    }
    return PPOConfig.model_validate({**base, **changes})
