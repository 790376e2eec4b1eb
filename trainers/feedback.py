"""What sampled JDs are worth to PPO, and the signs that the reward is being gamed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from girl_features.generator import RewardModel
from girl_features.generator.gate import defect
from girl_features.generator.prompts import encode_prompt, template_for
from girl_features.generator.reward_model import TransformersRewardModel

LOOP_WORDS = 4


class Judgement(NamedTuple):
    """n JDs, judged."""

    scores: np.ndarray  # (n,) float32: U(C, J')
    penalties: np.ndarray  # (n,) float32, to be taken off
    unfinished: np.ndarray  # (n,) bool: without an end token
    defective: np.ndarray  # (n,) bool: empty or looping
    texts: list[str]  # n


class Task(Protocol):
    """CVs to write for, numbered from 0, and the judge of what is written."""

    prompts: list[list[int]]  # token ids, the generator's
    critic_rows: list[list[int]]  # token ids of the CV with a blank JD, the critic's

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> Judgement:
        """Judge one completion of each numbered CV: token ids up to the end token, which the finished ones have."""
        ...


class JDTask:
    """CVs and a reward model."""

    def __init__(
        self,
        cvs: Sequence[str],
        tokenizer: Any,
        max_cv_tokens: int,
        reward_model: TransformersRewardModel,
        unfinished_penalty: float,
        defect_penalty: float,
    ) -> None:
        self._template, self._max_cv_tokens = template_for(tokenizer), max_cv_tokens
        self._cvs, self._tokenizer = list(cvs), tokenizer
        self._reward_model: RewardModel = reward_model
        self._unfinished_penalty, self._defect_penalty = unfinished_penalty, defect_penalty
        prompts = [encode_prompt(tokenizer, self._template, cv, max_cv_tokens) for cv in cvs]
        self.prompts = [p.ids for p in prompts]
        self.n_cv_truncated = sum(p.cv_truncated for p in prompts)
        self.critic_rows = [reward_model.encode(cv, "").ids for cv in cvs]

    def prompt_of(self, cv: str) -> list[int]:
        """Token ids of the prompt for any CV."""
        return encode_prompt(self._tokenizer, self._template, cv, self._max_cv_tokens).ids

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> Judgement:
        """Score the texts with the reward model; unfinished and defective ones cost a penalty each."""
        eos = self._tokenizer.eos_token_id
        unfinished = np.array([eos not in ids for ids in completions])
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in completions]
        defective = np.array([defect(text) is not None for text in texts])
        penalties = self._unfinished_penalty * unfinished + self._defect_penalty * defective
        scores = self._reward_model.score([self._cvs[i] for i in numbers], texts)
        return Judgement(scores, penalties.astype(np.float32), unfinished, defective, texts)


def joined(parts: Sequence[Judgement]) -> Judgement:
    """Several judgements as one, in their order."""
    return Judgement(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.penalties for part in parts]),
        np.concatenate([part.unfinished for part in parts]),
        np.concatenate([part.defective for part in parts]),
        [text for part in parts for text in part.texts],
    )


def signs(judged: Judgement) -> dict[str, float]:
    """Shares of unfinished and defective JDs, and `text_signs`."""
    shares = {"unfinished": float(judged.unfinished.mean()), "defective": float(judged.defective.mean())}
    return shares | text_signs(judged.texts)


def text_signs(texts: Sequence[str]) -> dict[str, float]:
    """Mean words a text, distinct bigrams over all bigrams of all texts, and the mean share of repeated 4-word runs."""
    words = [text.split() for text in texts]
    bigrams = [pair for own in words for pair in pairwise(own)]
    repeated = []
    for own in words:
        runs = [tuple(own[i : i + LOOP_WORDS]) for i in range(len(own) - LOOP_WORDS + 1)]
        repeated.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    return {
        "words": float(np.mean([len(own) for own in words])),
        "distinct_2": len(set(bigrams)) / len(bigrams) if bigrams else 0.0,
        "repetition": float(np.mean(repeated)),
    }
