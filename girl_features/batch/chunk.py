"""What is done to one chunk of CVs, wherever that is: JDs are generated, judged and redacted, then encoded and pooled.

Threads of one machine (`materialize.py`) and workers of a cluster (`integrations/ray_data.py`) call the same functions
on the same chunks, so they make the same rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from girl_features.batch.feature_rows import Pooled, TimedChunk, pool_samples
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.generator import Generator, RewardModel
from girl_features.generator.draw import generate_chunk
from girl_features.schema import CVVersion


class FinishedChunk(NamedTuple):
    """A chunk that only has to be written."""

    timed: TimedChunk
    pooled: Pooled | None  # vectors of the CVs that have a JD, in order; None where none has
    n_encoder_truncated: int  # JDs longer than the encoder reads


def generate_timed(
    generator: Generator, versions: Sequence[CVVersion], contract: FeatureContract, reward_model: RewardModel | None
) -> TimedChunk:
    """The JDs of `versions` that are fit to store, and how long they took."""
    started = time.perf_counter()
    chunk = generate_chunk(generator, versions, contract, reward_model)
    return TimedChunk(versions, chunk, time.perf_counter() - started)


def encode_jds(encoder: TextEncoder, timed: TimedChunk) -> FinishedChunk:
    """The same chunk with the pooled vectors of its JDs."""
    kept = [own for own in timed.chunk.kept if own]
    if not kept:
        return FinishedChunk(timed, None, 0)
    encoded = encoder.encode([draw.result.text for own in kept for draw in own])
    pooled = pool_samples(encoded.vectors, [len(own) for own in kept])
    return FinishedChunk(timed, pooled, int(encoded.truncated.sum()))
