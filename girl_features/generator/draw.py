"""Generating for a chunk of CVs: what is not tried, what is tried twice, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from girl_features.contract import FeatureContract, sampling_seed
from girl_features.generator import Generator, RewardModel
from girl_features.generator.gate import clean, defect
from girl_features.generator.redaction import redact
from girl_features.schema import CVVersion, GeneratedText

RETRY_SAMPLE_OFFSET = 1_000_000  # a retry draws from sample numbers no first try uses


class Draw(NamedTuple):
    """One JD as it was drawn."""

    result: GeneratedText  # cleaned, without contact details
    seed: int
    defect: str | None  # `empty`, `looping`, `malformed`, `unfinished`; None for a good one
    n_redacted: int


class GeneratedChunk(NamedTuple):
    """One entry a CV version, in order."""

    kept: list[list[Draw]]  # the good JDs; none where the CV failed
    dropped: list[list[Draw]]  # all other draws: defective, or not among the best
    failures: list[str | None]  # why a CV has no JD: `no_cv`, or the defect of its last draw; None where it has one
    n_retried: int  # JDs drawn a second time

    @property
    def texts(self) -> list[list[GeneratedText]]:
        """The good JDs of each CV."""
        return [[draw.result for draw in own] for own in self.kept]


def generate_chunk(
    generator: Generator,
    versions: Sequence[CVVersion],
    contract: FeatureContract,
    reward_model: RewardModel | None = None,
) -> GeneratedChunk:
    """Sample n JDs for each CV. A blank CV is not tried; a defective JD is drawn once more with another seed.

    A CV keeps its good JDs and fails only where none of them is good. With `sampling.best_of`, so many are drawn
    and the `reward_model` keeps its best n; a defective one is then drawn again only where fewer than n are good.
    A CV that failed in earlier runs draws from sample numbers that those did not use.
    """
    n_kept, n_drawn = contract.sampling.n, contract.sampling.best_of or contract.sampling.n
    assert contract.sampling.best_of is None or reward_model is not None, "the contract names a reward model"
    good: list[list[Draw]] = [[] for _ in versions]
    dropped: list[list[Draw]] = [[] for _ in versions]
    first = {
        i: [s + 2 * v.n_failures * RETRY_SAMPLE_OFFSET for s in range(n_drawn)]
        for i, v in enumerate(versions)
        if v.cv.strip()
    }
    defective = _draw(generator, versions, contract, first, good, dropped)
    again = {i: [s + RETRY_SAMPLE_OFFSET for s in samples] for i, samples in defective.items() if len(good[i]) < n_kept}
    _draw(generator, versions, contract, again, good, dropped)
    if reward_model is not None:
        for i, version in enumerate(versions):
            good[i], worse = _best(reward_model, version.cv, good[i], n_kept)
            dropped[i] += worse
    failures = [None if own else _reason(i in first, dropped[i]) for i, own in enumerate(good)]
    return GeneratedChunk(good, dropped, failures, sum(map(len, again.values())))


def _reason(tried: bool, dropped: list[Draw]) -> str | None:
    return dropped[-1].defect if tried else "no_cv"


def _best(reward_model: RewardModel, cv: str, drawn: list[Draw], n: int) -> tuple[list[Draw], list[Draw]]:
    """The n of the highest score, best first, and the others; of equal ones those drawn first."""
    if len(drawn) <= n:
        return drawn, []
    scores = reward_model.score([cv] * len(drawn), [draw.result.text for draw in drawn])
    order = np.argsort(-scores, kind="stable")
    return [drawn[i] for i in order[:n]], [drawn[i] for i in order[n:]]


def _draw(
    generator: Generator,
    versions: Sequence[CVVersion],
    contract: FeatureContract,
    samples: dict[int, list[int]],
    good: list[list[Draw]],
    dropped: list[list[Draw]],
) -> dict[int, list[int]]:
    """Draw the given sample numbers of the given CVs; returns those that were defective."""
    if not samples:
        return {}
    seeds = [[sampling_seed(versions[i].cv_hash, contract.fingerprint, s) for s in own] for i, own in samples.items()]
    drawn = generator.generate([versions[i].cv for i in samples], seeds)
    defective: dict[int, list[int]] = {}
    for (i, own), own_seeds, results in zip(samples.items(), seeds, drawn, strict=True):
        for sample, seed, result in zip(own, own_seeds, results, strict=True):
            draw = _judged(result, seed)
            (good if draw.defect is None else dropped)[i].append(draw)
            if draw.defect is not None:
                defective.setdefault(i, []).append(sample)
    return defective


def _judged(result: GeneratedText, seed: int) -> Draw:
    text, n_redacted = redact(clean(result.text))
    reason = defect(text) or (None if result.finish_reason == "stop" else "unfinished")
    return Draw(result._replace(text=text), seed, reason, n_redacted)
