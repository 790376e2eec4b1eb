"""Generated JDs for a chunk of CVs: defective ones are drawn once more, and only good ones are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from girl_features.contract import FeatureContract, sampling_seed
from girl_features.generator import Generator, RewardModel
from girl_features.generator.copying import copied_share
from girl_features.generator.gate import clean, defect
from girl_features.generator.redaction import redact
from girl_features.schema import CVVersion, GeneratedText

RETRY_SAMPLE_OFFSET = 1_000_000  # added to a sample number for the second draw, so that no first draw uses it


class Draw(NamedTuple):
    """One JD that a generator wrote."""

    result: GeneratedText  # cleaned, without contact details
    seed: int
    sample: int  # sample number, from which the seed is derived
    defect: str | None  # `empty`, `looping`, `malformed`, `unfinished` or `copied`; None for a good JD
    n_redacted: int


class GeneratedChunk(NamedTuple):
    """Generated JDs of n CV versions; each list has one entry for each version, in order."""

    kept: list[list[Draw]]  # good JDs; empty where the CV failed
    dropped: list[list[Draw]]  # all other draws: defective, or not among the best
    failures: list[str | None]  # reason why a CV has no JD: `no_cv`, or the defect of its last draw
    n_retried: int  # JDs that were drawn a second time
    n_unfinished: int = 0  # JDs that a CV lacks in the end because their second draw was cut at max_new_tokens, too

    @property
    def texts(self) -> list[list[GeneratedText]]:
        """The good JDs of each CV."""
        return [[draw.result for draw in draws] for draws in self.kept]


def generate_chunk(
    generator: Generator,
    versions: Sequence[CVVersion],
    contract: FeatureContract,
    reward_model: RewardModel | None = None,
) -> GeneratedChunk:
    """Generate n JDs for each CV, where n is `sampling.n`. Blank CVs are skipped.

    A defective JD is drawn once more with another seed. A CV keeps its good JDs, and fails only if none is good.
    With `sampling.best_of`, that many JDs are drawn, and the n with the highest reward are kept; then a defective JD
    is drawn again only if the CV has fewer than n good ones. A CV that failed in earlier runs uses new sample numbers.
    """
    n_kept = contract.sampling.n
    n_drawn = contract.sampling.best_of or n_kept
    assert contract.sampling.best_of is None or reward_model is not None, "the contract names a reward model"
    first = _draw(generator, versions, contract, [_first_samples(version, n_drawn) for version in versions])
    retried = [_retry_samples(draws, n_kept) for draws in first]
    second = _draw(generator, versions, contract, retried)
    chunk = GeneratedChunk([], [], [], sum(map(len, retried)))
    n_unfinished = 0
    for version, first_draws, second_draws in zip(versions, first, second, strict=True):
        draws = [*first_draws, *second_draws]
        kept = [draw for draw in draws if draw.defect is None]
        dropped = [draw for draw in draws if draw.defect is not None]
        n_lacking = max(n_kept - len(kept), 0)
        n_unfinished += min(n_lacking, sum(draw.defect == "unfinished" for draw in second_draws))
        if reward_model is not None:
            kept, not_best = _split_best(reward_model, version.cv, kept, n_kept)
            dropped += not_best
        chunk.kept.append(kept)
        chunk.dropped.append(dropped)
        failure = None
        if not kept:
            failure = dropped[-1].defect if dropped else "no_cv"
        chunk.failures.append(failure)
    return chunk._replace(n_unfinished=n_unfinished)


def _first_samples(version: CVVersion, n: int) -> list[int]:
    if not version.cv.strip():
        return []
    start = 2 * version.n_failures * RETRY_SAMPLE_OFFSET  # each failed run has used two ranges of sample numbers
    return list(range(start, start + n))


def _retry_samples(draws: list[Draw], n_wanted: int) -> list[int]:
    """Sample numbers with which to draw the defective JDs again; none if there are enough good ones."""
    defective = [draw.sample for draw in draws if draw.defect is not None]
    if len(draws) - len(defective) >= n_wanted:
        return []
    return [sample + RETRY_SAMPLE_OFFSET for sample in defective]


def _draw(
    generator: Generator, versions: Sequence[CVVersion], contract: FeatureContract, samples: Sequence[Sequence[int]]
) -> list[list[Draw]]:
    """Generate one JD for each sample number of each CV."""
    draws: list[list[Draw]] = [[] for _ in versions]
    rows = [row for row, numbers in enumerate(samples) if numbers]
    if not rows:
        return draws
    fingerprint = contract.fingerprint
    seeds = [[sampling_seed(versions[row].cv_hash, fingerprint, number) for number in samples[row]] for row in rows]
    results = generator.generate([versions[row].cv for row in rows], seeds)
    for row, cv_seeds, cv_results in zip(rows, seeds, results, strict=True):
        cv, limit = versions[row].cv, contract.sampling.max_copied
        draws[row] = [_checked(cv, limit, *drawn) for drawn in zip(cv_results, cv_seeds, samples[row], strict=True)]
    return draws


def _checked(cv: str, max_copied: float | None, result: GeneratedText, seed: int, sample: int) -> Draw:
    text, n_redacted = redact(clean(result.text))
    problem = defect(text)
    if problem is None and result.finish_reason != "stop":
        problem = "unfinished"
    if problem is None and max_copied is not None and copied_share(cv, text) > max_copied:
        problem = "copied"
    return Draw(result._replace(text=text), seed, sample, problem, n_redacted)


def _split_best(reward_model: RewardModel, cv: str, draws: list[Draw], n: int) -> tuple[list[Draw], list[Draw]]:
    """The n draws with the highest reward, best first, and the others. Equal rewards keep the order of the draws."""
    if len(draws) <= n:
        return draws, []
    scores = reward_model.score([cv] * len(draws), [draw.result.text for draw in draws])
    order = np.argsort(-scores, kind="stable")
    return [draws[i] for i in order[:n]], [draws[i] for i in order[n:]]
