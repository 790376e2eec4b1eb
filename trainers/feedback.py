"""Scores of sampled JDs, and statistics of their texts that show when the reward model is being exploited."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from girl_features.generator import RewardModel
from girl_features.generator.gate import defect
from girl_features.generator.prompts import encode_prompt, template_for
from girl_features.generator.reward_model import TransformersRewardModel

RUN_WORDS = 4  # words of a run that is looked for a second time


class JDScores(NamedTuple):
    """Scores of n sampled JDs."""

    scores: np.ndarray  # (n,) float32: U(C, J')
    penalties: np.ndarray  # (n,) float32, to be subtracted from the scores
    unfinished: np.ndarray  # (n,) bool: no end token
    defective: np.ndarray  # (n,) bool: empty or looping
    texts: list[str]  # n


class WritingTask(Protocol):
    """CVs to write JDs for, numbered from 0, and the scoring of the JDs."""

    prompts: list[list[int]]  # token ids of each CV's prompt, by the generator's tokenizer
    critic_rows: list[list[int]]  # token ids of each CV with a blank JD, by the critic's tokenizer

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> JDScores:
        """Score one completion of each numbered CV.

        Args:
            numbers: of the CVs.
            completions: token ids of each JD, with the end token if the JD is finished.
        """
        ...


class JDTask:
    """CVs whose JDs a reward model scores."""

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
        """Return the token ids of the prompt for any CV."""
        return encode_prompt(self._tokenizer, self._template, cv, self._max_cv_tokens).ids

    def judge(self, numbers: Sequence[int], completions: Sequence[Sequence[int]]) -> JDScores:
        """Score the JDs with the reward model. Unfinished and defective JDs get a penalty each."""
        eos = self._tokenizer.eos_token_id
        unfinished = np.array([eos not in ids for ids in completions])
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in completions]
        defective = np.array([defect(text) is not None for text in texts])
        penalties = self._unfinished_penalty * unfinished + self._defect_penalty * defective
        scores = self._reward_model.score([self._cvs[i] for i in numbers], texts)
        return JDScores(scores, penalties.astype(np.float32), unfinished, defective, texts)


def concatenate_scores(parts: Sequence[JDScores]) -> JDScores:
    """Return the scores of all parts as one, in their order."""
    return JDScores(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.penalties for part in parts]),
        np.concatenate([part.unfinished for part in parts]),
        np.concatenate([part.defective for part in parts]),
        [text for part in parts for text in part.texts],
    )


def jd_statistics(jds: JDScores) -> dict[str, float]:
    """Return the shares of unfinished and of defective JDs, and the `text_statistics` of all."""
    shares = {"unfinished": float(jds.unfinished.mean()), "defective": float(jds.defective.mean())}
    return shares | text_statistics(jds.texts)


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Return how long and how repetitive the texts are.

    Returns:
        `words`, the mean number of words; `distinct_2`, the number of distinct bigrams divided by that of all bigrams
        of all texts; and `repetition`, the mean share of 4-word runs of a text that occur in it before.
    """
    words_by_text = [text.split() for text in texts]
    bigrams = [bigram for words in words_by_text for bigram in pairwise(words)]
    repeated = []
    for words in words_by_text:
        runs = [tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)]
        repeated.append(1 - len(set(runs)) / len(runs) if runs else 0.0)
    return {
        "words": float(np.mean([len(words) for words in words_by_text])),
        "distinct_2": len(set(bigrams)) / len(bigrams) if bigrams else 0.0,
        "repetition": float(np.mean(repeated)),
    }
