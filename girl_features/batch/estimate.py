"""A dry run: count what the batch would do, and project its cost from a few real generations."""

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
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.generator.draw import generate_chunk
from girl_features.generator.opening import LoadedModels, load_models
from girl_features.input.tables import Tables, open_tables
from girl_features.store.parts import PartsStore

SECONDS_PER_HOUR = 3600


class BatchPlan(NamedTuple):
    """Counts of what the store lacks."""

    contract: str
    generation: GenerationPlan
    n_cv_vectors: int
    n_jd_vectors: int
    seconds: float  # that planning took


class Estimate(NamedTuple):
    """Cost of a plan, projected from a sample: an estimate, not a measurement of the whole."""

    n_sampled: int  # CVs that were really generated for; their JDs are thrown away
    sample_seconds: float
    n_prompt_tokens: int
    n_new_tokens: int
    seconds: float  # generating and encoding one after the other; a run overlaps them where it can
    share_failed: float  # of the sample: no JD fit to store
    cost: float | None  # in the currency of the price an hour; None if no price was given


def dry_run(
    config: GirlConfig, *, n_sample: int, cost_per_hour: float | None = None, retry_failed: bool = False
) -> tuple[BatchPlan, Estimate | None]:
    """Plan the batch and estimate its cost from `n_sample` real generations. Nothing is stored."""
    models = load_models(config)
    with open_tables(config) as tables:
        plan = make_plan(tables, models.contract, PartsStore(config.store_dir), retry_failed=retry_failed)
        return plan, estimate(tables, plan, models, n_sample=n_sample, cost_per_hour=cost_per_hour)


def make_plan(tables: Tables, contract: FeatureContract, store: PartsStore, *, retry_failed: bool = False) -> BatchPlan:
    """Work out what a run would do. Nothing is written to the store."""
    started = time.perf_counter()
    with planning_errors():
        generation = plan_generation(tables, contract, store, retry_failed=retry_failed)
        n_cvs, n_jds = plan_cv_vectors(tables, contract, store), plan_jd_vectors(tables, contract, store)
    return BatchPlan(contract.fingerprint, generation, n_cvs, n_jds, time.perf_counter() - started)


def estimate(
    tables: Tables, plan: BatchPlan, models: LoadedModels, *, n_sample: int, cost_per_hour: float | None = None
) -> Estimate | None:
    """Generate and encode a sample of the plan, and project its cost. None if there is no CV to generate for.

    The sample is spread over the lengths of the planned CVs. One CV goes first, uncounted, to warm the engine up.
    """
    sample = sample_cvs(tables, n_sample, models.contract)
    if not sample:
        return None
    generate_chunk(models.generator, sample[:1], models.contract, models.reward_model)
    started = time.perf_counter()
    chunk = generate_chunk(models.generator, sample, models.contract, models.reward_model)
    generated = time.perf_counter()
    texts = [version.cv for version in sample] + [text.text for jds in chunk.texts for text in jds]
    models.encoder.encode(texts)
    seconds_per_text = (time.perf_counter() - generated) / len(texts)
    draws = [draw.result for drawn in (*chunk.kept, *chunk.dropped) for draw in drawn]
    query = "SELECT count(*) FROM generation_plan WHERE n_characters > 0"  # blank CVs are not generated for
    [(n_generations,)] = tables.connection.execute(query).fetchall()
    scale = n_generations / len(sample)
    n_texts = plan.n_cv_vectors + plan.n_jd_vectors + sum(map(len, chunk.kept)) * scale
    seconds = (generated - started) * scale + seconds_per_text * n_texts
    return Estimate(
        n_sampled=len(sample),
        sample_seconds=time.perf_counter() - started,
        n_prompt_tokens=round(sum(draw.n_prompt_tokens for draw in draws) * scale),
        n_new_tokens=round(sum(draw.n_new_tokens for draw in draws) * scale),
        seconds=seconds,
        share_failed=sum(failure is not None for failure in chunk.failures) / len(sample),
        cost=None if cost_per_hour is None else cost_per_hour * seconds / SECONDS_PER_HOUR,
    )
