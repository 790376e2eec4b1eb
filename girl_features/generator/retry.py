"""Generating for a chunk of CVs: what is not tried, what is tried twice, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from girl_features.contract import FeatureContract, sampling_seed
from girl_features.generator import Generator
from girl_features.generator.quality import defect
from girl_features.schema import CVVersion, GeneratedText

RETRY_SAMPLE_OFFSET = 1_000_000  # a retry draws from sample numbers no first try uses


class GeneratedChunk(NamedTuple):
    """One entry a CV version, in order."""

    texts: list[list[GeneratedText]]  # the good JDs; none where the CV failed
    failures: list[str | None]  # why a CV has no JD: `no_cv`, `empty`, `looping`; None where it has one
    n_retried: int  # JDs drawn a second time


def generate_chunk(generator: Generator, versions: Sequence[CVVersion], contract: FeatureContract) -> GeneratedChunk:
    """Sample n JDs for each CV. A blank CV is not tried; a defective JD is drawn once more with another seed.

    A CV keeps its good JDs and fails only where none of its n is good.
    """
    texts: list[list[GeneratedText]] = [[] for _ in versions]
    failures: list[str | None] = [None if v.cv.strip() else "no_cv" for v in versions]
    first = {i: list(range(contract.sampling.n)) for i, failure in enumerate(failures) if failure is None}
    defective = _draw(generator, versions, contract, first, texts, failures)
    n_retried = sum(map(len, defective.values()))
    again = {i: [s + RETRY_SAMPLE_OFFSET for s in samples] for i, samples in defective.items()}
    _draw(generator, versions, contract, again, texts, failures)
    return GeneratedChunk(
        texts, [None if own else failure for own, failure in zip(texts, failures, strict=True)], n_retried
    )


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
            reason = defect(result.text)
            if reason is None:
                texts[i].append(result)
            else:
                failures[i] = reason
                defective.setdefault(i, []).append(sample)
    return defective
