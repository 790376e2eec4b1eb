"""What a run would do and cost: the plan, and tokens, time and money from a few real generations."""

from __future__ import annotations

import time
from typing import NamedTuple

from girl_features.batch.plan import (
    GenerationPlan,
    plan_cv_vectors,
    plan_generation,
    plan_jd_vectors,
    planning_errors,
    sample_cvs,
)
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.generator import Generator, RewardModel
from girl_features.generator.draw import generate_chunk
from girl_features.input.tables import Tables
from girl_features.store.parts import PartsStore

SECONDS_PER_HOUR = 3600


class Plan(NamedTuple):
    """What is missing."""

    contract: str
    generation: GenerationPlan
    n_cv_vectors: int
    n_jd_vectors: int
    seconds: float  # to find out


class Estimate(NamedTuple):
    """What the plan would take, projected from a sample: an estimate, not a measurement of the whole."""

    n_sampled: int  # CVs that were really generated for; their JDs are thrown away
    sample_seconds: float
    n_prompt_tokens: int
    n_new_tokens: int
    seconds: float  # generating and encoding, one after the other; a run does both at once where it can
    share_failed: float  # of the sample: no JD fit to store
    cost: float | None  # in the currency of the price an hour; None where none was given


def make_plan(tables: Tables, contract: FeatureContract, store: PartsStore, *, retry_failed: bool = False) -> Plan:
    """Work out what a run would do; nothing is written to the store."""
    started = time.perf_counter()
    with planning_errors():
        generation = plan_generation(tables, contract, store, retry_failed=retry_failed)
        n_cvs, n_jds = plan_cv_vectors(tables, contract, store), plan_jd_vectors(tables, contract, store)
    return Plan(contract.fingerprint, generation, n_cvs, n_jds, time.perf_counter() - started)


def estimate(
    tables: Tables,
    plan: Plan,
    generator: Generator,
    encoder: TextEncoder,
    contract: FeatureContract,
    *,
    n_sample: int,
    reward_model: RewardModel | None = None,
    cost_per_hour: float | None = None,
) -> Estimate | None:
    """Generate and encode for a sample of the plan, and project; None where there is no CV to generate for.

    The sample is spread over the planned CVs' lengths. One CV goes first, uncounted, to warm the engine up.
    """
    sample = sample_cvs(tables, n_sample, contract)
    if not sample:
        return None
    generate_chunk(generator, sample[:1], contract, reward_model)
    started = time.perf_counter()
    chunk = generate_chunk(generator, sample, contract, reward_model)
    generated = time.perf_counter()
    texts = [version.cv for version in sample] + [text.text for own in chunk.texts for text in own]
    encoder.encode(texts)
    encode_a_text = (time.perf_counter() - generated) / len(texts)
    draws = [draw.result for own in (*chunk.kept, *chunk.dropped) for draw in own]
    times = n_generations(tables) / len(sample)
    n_texts = plan.n_cv_vectors + plan.n_jd_vectors + sum(map(len, chunk.kept)) * times
    seconds = (generated - started) * times + encode_a_text * n_texts
    return Estimate(
        n_sampled=len(sample),
        sample_seconds=time.perf_counter() - started,
        n_prompt_tokens=round(sum(draw.n_prompt_tokens for draw in draws) * times),
        n_new_tokens=round(sum(draw.n_new_tokens for draw in draws) * times),
        seconds=seconds,
        share_failed=sum(failure is not None for failure in chunk.failures) / len(sample),
        cost=None if cost_per_hour is None else cost_per_hour * seconds / SECONDS_PER_HOUR,
    )


def n_generations(tables: Tables) -> int:
    """CVs in the plan that are not blank."""
    row = tables.connection.execute("SELECT count(*) FROM generation_plan WHERE n_characters > 0").fetchone()
    assert row is not None
    return int(row[0])
