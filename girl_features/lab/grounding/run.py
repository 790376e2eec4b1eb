"""`girl ground`: measure how well generated JDs lead to the jobs really matched, or list real jobs for seekers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.evaluation.run import labelled_parts
from girl_features.generator.checkpoint import trained_reward_models
from girl_features.generator.opening import find_generator, find_reward_model, load_encoder, make_contract
from girl_features.input.splits import Windows, check_no_leakage, cut_windows
from girl_features.input.tables import Tables, open_tables
from girl_features.lab.experiment.data import ExperimentData, generated_by_version, load_data
from girl_features.lab.grounding.open_jobs import (
    SHORTLIST,
    JobTable,
    PairScorer,
    Query,
    ground,
    measure_grounding,
    read_jobs,
)
from girl_features.lab.grounding.queries import GeneratedJDs, seeker_queries, window_queries
from girl_features.lab.grounding.report import GroundingRow, chance_rows, method_rows
from girl_features.lab.text_vectors import TextVectors
from girl_features.progress import Progress
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import keep_out_of_git

MATCHER = ("mlp", "enhanced")  # predictor and row of the learned matcher (GIRL, eq. 13, with interaction terms)
MakeRanker = Callable[[str, str, int], Ranker]  # predictor, row, seed


class GroundedJob(NamedTuple):
    """One real job for one seeker."""

    job_seeker_id: str
    rank: int
    job_id: str
    score: float
    jd: str


class GroundingInputs(NamedTuple):
    """Contract and JDs of the generator in use, and all jobs with their vectors."""

    contract: FeatureContract
    generated: GeneratedJDs
    jobs: JobTable
    jd_vectors: np.ndarray  # (m, d)


def measure_run(
    config: GirlConfig,
    make_ranker: MakeRanker,
    *,
    size: int = SHORTLIST,
    limit: int | None = None,
    taken_by_first_match: bool = True,
) -> list[GroundingRow]:
    """Measure recall and NDCG of every method on the matched decisions of the test window.

    Args:
        config: configuration whose generator in use has been materialized.
        make_ranker: makes the matcher.
        size: length of the shortlist that matcher and reward model order.
        limit: largest number of queries, drawn at random; None takes all.
        taken_by_first_match: False if a job stays open after a match.

    Raises:
        UnknownContractError: the generator in use has not been materialized.
        DataError: no matched decision of the test window has a generated JD.
        LeakageError: generator or reward model were trained on decisions of the ranking windows.
    """
    encoder = load_encoder(config)
    with open_tables(config) as tables:
        inputs = _read_inputs(config, tables, encoder)
        data = load_data(config.name, tables, cut_windows(tables, config.windows))
    jobs = inputs.jobs
    scorers: dict[str, PairScorer | None] = {"distance": None}
    scorers["matcher"] = _matcher_scorer(config, inputs, data, make_ranker)
    queries, n_not_open = window_queries(
        data.decisions["test"], jobs, inputs.generated, encoder, limit=limit, taken_by_first_match=taken_by_first_match
    )
    if trained_reward_models(config.rewards_dir):
        scorers["reward model"] = _reward_scorer(config, jobs, data.windows)
    rank = partial(ground, jobs, inputs.jd_vectors, queries, size=size, taken_by_first_match=taken_by_first_match)
    with Progress("ground", 2 * len(queries), "queries") as progress:
        rankings = rank(scorers, progress=progress.advance)
        rankings |= rank({"CV distance": None}, by=lambda query: query.cv_vector, progress=progress.advance)
    rows: list[GroundingRow] = []
    for method, ranked in rankings.items():
        metrics = measure_grounding(ranked, queries, jobs, taken_by_first_match)
        rows += method_rows(config.name, method, metrics, queries, n_not_open)
    return [*rows, *chance_rows([row for row in rows if row.method == "distance"], metrics.n_open)]


def ground_seekers(
    config: GirlConfig, make_ranker: MakeRanker, seekers: Sequence[str], k: int, method: str
) -> list[GroundedJob]:
    """Return the k best jobs open now for each of `seekers`, by their newest CV and one `method`.

    The method is distance, matcher (which `make_ranker` makes) or reward.

    Raises:
        DataError: no such seeker, or no generated JD for the newest CV.
        CheckpointError: `method` is reward, and there is no reward model.
    """
    encoder = load_encoder(config)
    scorer: PairScorer | None = None
    with open_tables(config) as tables:
        inputs = _read_inputs(config, tables, encoder)
        if method == "matcher":
            data = load_data(config.name, tables, cut_windows(tables, config.windows))
            scorer = _matcher_scorer(config, inputs, data, make_ranker)
        queries = seeker_queries(seekers, tables, inputs.generated, encoder)
    if method == "reward":
        scorer = _reward_scorer(config, inputs.jobs)
    rankings = ground(inputs.jobs, inputs.jd_vectors, queries, {method: scorer}, size=max(SHORTLIST, k))[method]
    return [
        GroundedJob(query.job_seeker_id, place, inputs.jobs.job_ids[row], float(score), inputs.jobs.jds[row])
        for query, ranked in zip(queries, rankings, strict=True)
        for place, (row, score) in enumerate(zip(ranked.rows[:k], ranked.scores[:k], strict=True), start=1)
    ]


def _read_inputs(config: GirlConfig, tables: Tables, encoder: TextEncoder) -> GroundingInputs:
    _, record = find_generator(config)
    contract = make_contract(config, record, encoder)
    store = PartsStore(config.store_dir)
    store.contract(contract.fingerprint)  # raises UnknownContractError if it has not been materialized
    jobs = read_jobs(tables)
    keep_out_of_git(config.workspace)
    jd_vectors = TextVectors(encoder, config.workspace / "grounding" / "vectors").table(jobs.jds).of(jobs.jds)
    return GroundingInputs(contract, generated_by_version(store, contract), jobs, jd_vectors)


def _matcher_scorer(
    config: GirlConfig, inputs: GroundingInputs, data: ExperimentData, make_ranker: MakeRanker
) -> PairScorer:
    """Fit the matcher on the ranking windows; LeakageError if the generator has seen their labels."""
    check_no_leakage(data.windows, inputs.contract.trained_until)
    parts = labelled_parts(config.feast_repo, inputs.contract, data.decisions.values())
    matcher = make_ranker(*MATCHER, 0)
    matcher.fit(parts.train.features, parts.train.labels, parts.valid.features, parts.valid.labels)

    def score(query: Query, rows: np.ndarray) -> np.ndarray:
        n = len(rows)
        cv, generated_jd = np.tile(query.cv_vector, (n, 1)), np.tile(query.generated_jd_vector, (n, 1))
        tier = np.full(n, Tier.GENERATED, np.int8)
        features = PairFeatures(cv, inputs.jd_vectors[rows], generated_jd, tier, inputs.contract.fingerprint)
        return matcher.score(features)

    return score


def _reward_scorer(config: GirlConfig, jobs: JobTable, windows: Windows | None = None) -> PairScorer:
    """Load the newest reward model; LeakageError if `windows` are given and it has seen their ranking labels."""
    from girl_features.generator.reward_model import TransformersRewardModel

    folder, record = find_reward_model(config)
    if windows is not None:
        check_no_leakage(windows, record.trained_until)
    model = TransformersRewardModel(folder)

    def score(query: Query, rows: np.ndarray) -> np.ndarray:
        return model.score([query.cv] * len(rows), [jobs.jds[row] for row in rows]).astype(np.float64)

    return score
