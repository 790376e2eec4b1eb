"""Generating for a chunk of CVs: what is not tried, what is tried twice, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from girl_features.contract import FeatureContract, sampling_seed
from girl_features.generator import Generator, RewardModel
from girl_features.generator.quality import clean, defect
from girl_features.schema import CVVersion, GeneratedText

RETRY_SAMPLE_OFFSET = 1_000_000  # a retry draws from sample numbers no first try uses


class GeneratedChunk(NamedTuple):
    """One entry a CV version, in order."""

    texts: list[list[GeneratedText]]  # the good JDs; none where the CV failed
    failures: list[str | None]  # why a CV has no JD: `no_cv`, `empty`, `looping`; None where it has one
    n_retried: int  # JDs drawn a second time


def generate_chunk(
    generator: Generator,
    versions: Sequence[CVVersion],
    contract: FeatureContract,
    reward_model: RewardModel | None = None,
) -> GeneratedChunk:
    """Sample n JDs for each CV. A blank CV is not tried; a defective JD is drawn once more with another seed.

    A CV keeps its good JDs and fails only where none of them is good. With `sampling.best_of`, so many are drawn
    and the `reward_model` keeps its best n; a defective one is then drawn again only where fewer than n are good.
    """
    n_kept, n_drawn = contract.sampling.n, contract.sampling.best_of or contract.sampling.n
    assert contract.sampling.best_of is None or reward_model is not None, "the contract names a reward model"
    texts: list[list[GeneratedText]] = [[] for _ in versions]
    failures: list[str | None] = [None if v.cv.strip() else "no_cv" for v in versions]
    first = {i: list(range(n_drawn)) for i, failure in enumerate(failures) if failure is None}
    defective = _draw(generator, versions, contract, first, texts, failures)
    defective = {i: samples for i, samples in defective.items() if len(texts[i]) < n_kept}
    n_retried = sum(map(len, defective.values()))
    again = {i: [s + RETRY_SAMPLE_OFFSET for s in samples] for i, samples in defective.items()}
    _draw(generator, versions, contract, again, texts, failures)
    if reward_model is not None:
        texts = [_best(reward_model, v.cv, own, n_kept) for v, own in zip(versions, texts, strict=True)]
    return GeneratedChunk(
        texts, [None if own else failure for own, failure in zip(texts, failures, strict=True)], n_retried
    )


def _best(reward_model: RewardModel, cv: str, drawn: list[GeneratedText], n: int) -> list[GeneratedText]:
    """The n of the highest score, best first; of equal ones those drawn first."""
    if len(drawn) <= n:
        return drawn
    scores = reward_model.score([cv] * len(drawn), [text.text for text in drawn])
    return [drawn[i] for i in np.argsort(-scores, kind="stable")[:n]]


def _draw(
    generator: Generator,
    versions: Sequence[CVVersion],
    contract: FeatureContract,
    samples: dict[int, list[int]],
    texts: list[list[GeneratedText]],
    failures: list[str | None],
) -> dict[int, list[int]]:
    """Draw the given sample numbers of the given CVs into `texts`; returns those that were defective."""
    if not samples:
        return {}
    seeds = [[sampling_seed(versions[i].cv_hash, contract.fingerprint, s) for s in own] for i, own in samples.items()]
    drawn = generator.generate([versions[i].cv for i in samples], seeds)
    defective: dict[int, list[int]] = {}
    for (i, own), results in zip(samples.items(), drawn, strict=True):
        for sample, result in zip(own, results, strict=True):
            text = clean(result.text)
            reason = defect(text)
            if reason is None:
                texts[i].append(result._replace(text=text))
            else:
                failures[i] = reason
                defective.setdefault(i, []).append(sample)
    return defective
