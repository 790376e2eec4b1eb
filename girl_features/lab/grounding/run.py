"""`girl ground`: how well generated JDs lead to the jobs really matched, and which real jobs a seeker would see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from girl_features.batch.chunk import pool_samples
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.errors import DataError
from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.generator import RewardModel
from girl_features.generator.checkpoint import trained_reward_models
from girl_features.generator.opening import find_generator, find_reward_model, load_encoder, make_contract
from girl_features.input.splits import Windows, check_no_leakage, cut_windows
from girl_features.input.tables import Tables, open_tables
from girl_features.lab.experiment.data import generated_by_version, joined_parts, load_data
from girl_features.lab.grounding.open_jobs import (
    CUTOFFS,
    SHORTLIST,
    GroundingMetrics,
    JobTable,
    PairScorer,
    Query,
    chance_recall,
    ground,
    measure_grounding,
    open_at,
    read_jobs,
)
from girl_features.lab.text_vectors import TextVectors, VectorTable, encode_once
from girl_features.progress import Progress
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore

MATCHER = ("mlp", "enhanced")  # the learned matcher: MLP over c, j and j' (GIRL, eq. 13, with interaction terms)
N_BOOTSTRAP = 1000


class GroundingRow(NamedTuple):
    """One method at one cutoff, averaged over the queries, with 95 % intervals over seekers."""

    data: str
    method: str
    cutoff: int
    recall: float
    recall_low: float
    recall_high: float
    ndcg: float
    ndcg_low: float
    ndcg_high: float
    n_queries: int
    n_seekers: int
    n_open: float  # jobs to choose from, median over the queries
    n_not_open: int  # matches left out, as somebody else's came before


class GroundedJob(NamedTuple):
    """One real job for one seeker."""

    job_seeker_id: str
    rank: int
    job_id: str
    score: float
    jd: str


class Opened(NamedTuple):
    """What both uses of grounding read."""

    contract: FeatureContract
    jobs: JobTable
    jd_vectors: np.ndarray  # (m, d)
    encoder: TextEncoder
    matcher: Ranker | None


def measure_run(
    config: GirlConfig,
    make_ranker: Callable[[str, str, int], Ranker],
    *,
    size: int = SHORTLIST,
    limit: int | None = None,
    taken_by_first_match: bool = True,
) -> list[GroundingRow]:
    """Recall and NDCG of every method on the matched decisions of the test window.

    Args:
        config: whose generator in use has been materialized.
        make_ranker: gives the matcher.
        size: of the shortlist that matcher and reward model order.
        limit: take so many queries, drawn at random; None takes all.
        taken_by_first_match: see `grounding`.

    Raises:
        UnknownContractError: the generator in use has not been materialized.
        DataError: no matched decision of the test window has a generated JD.
    """
    encoder = load_encoder(config)
    with open_tables(config) as tables:
        opened = _open(config, tables, encoder, make_ranker)
        data = load_data(config.name, tables, cut_windows(tables, config.windows))
    queries, n_not_open = _test_queries(config, opened, data.decisions["test"], limit, taken_by_first_match)
    methods: dict[str, PairScorer | None] = {"distance": None}
    if opened.matcher is not None:
        methods["matcher"] = _matcher_scorer(opened)
    if (reward := _reward_model(config, data.windows)) is not None:
        methods["reward model"] = _reward_scorer(reward, opened.jobs)
    with Progress("ground", 2 * len(queries), "queries") as progress:
        rank = partial(
            ground,
            opened.jobs,
            opened.jd_vectors,
            queries,
            size=size,
            taken_by_first_match=taken_by_first_match,
            progress=progress.advance,
        )
        ranked = rank(methods) | rank({"CV distance": None}, by=lambda query: query.cv_vector)
    rows = []
    for name, own in ranked.items():
        metrics = measure_grounding(own, queries, opened.jobs, taken_by_first_match)
        rows += _rows(config.name, name, metrics, queries, n_not_open)
    return rows + _chance_rows(config.name, metrics, queries, n_not_open)


def ground_seekers(
    config: GirlConfig, make_ranker: Callable[[str, str, int], Ranker], seekers: Sequence[str], k: int, method: str
) -> list[GroundedJob]:
    """The k best open jobs for each of `seekers`, of their newest CV, now.

    Raises:
        DataError: no such seeker, or one without a generated JD.
        CheckpointError: `method` is the reward model, and there is none.
    """
    encoder = load_encoder(config)
    with open_tables(config) as tables:
        opened = _open(config, tables, encoder, make_ranker if method == "matcher" else None)
        queries = _seeker_queries(config, tables, opened, seekers)
    scorer: PairScorer | None = None
    if method == "matcher":
        scorer = _matcher_scorer(opened)
    elif method == "reward":
        from girl_features.generator.reward_model import TransformersRewardModel

        scorer = _reward_scorer(TransformersRewardModel(find_reward_model(config)[0]), opened.jobs)
    ranked = ground(opened.jobs, opened.jd_vectors, queries, {method: scorer}, size=max(SHORTLIST, k))[method]
    return [
        GroundedJob(query.job_seeker_id, place + 1, opened.jobs.job_ids[row], float(score), opened.jobs.jds[row])
        for query, own in zip(queries, ranked, strict=True)
        for place, (row, score) in enumerate(zip(own.rows[:k], own.scores[:k], strict=True))
    ]


def _open(
    config: GirlConfig,
    tables: Tables,
    encoder: TextEncoder,
    make_ranker: Callable[[str, str, int], Ranker] | None,
) -> Opened:
    _, record = find_generator(config)
    contract = make_contract(config, record, encoder)
    PartsStore(config.store_dir).contract(contract.fingerprint)  # materialized, or says so
    jobs = read_jobs(tables)
    jd_vectors = TextVectors(encoder, config.workspace / "grounding" / "vectors").table(jobs.jds).of(jobs.jds)
    matcher = None
    if make_ranker is not None:
        windows = cut_windows(tables, config.windows)
        check_no_leakage(windows, contract.trained_until)
        parts = joined_parts(load_data(config.name, tables, windows), config, contract)
        matcher = make_ranker(*MATCHER, 0)
        matcher.fit(parts.train.features, parts.train.labels, parts.valid.features, parts.valid.labels)
    return Opened(contract, jobs, jd_vectors, encoder, matcher)


def _test_queries(
    config: GirlConfig, opened: Opened, test: pl.DataFrame, limit: int | None, taken_by_first_match: bool
) -> tuple[list[Query], int]:
    """One query a seeker and time with a match on an open job, of those whose CV has a generated JD.

    Also the number of matches that are left out because their jobs were not open any more.
    """
    known = generated_by_version(PartsStore(config.store_dir), opened.contract)
    row_of = {job: i for i, job in enumerate(opened.jobs.job_ids)}
    keys = ["job_seeker_id", "decided_at", "updated_at", "cv_hash", "cv"]
    asked = test.filter("matched").group_by(keys, maintain_order=True).agg(pl.col("job_id"))
    found, n_not_open = [], 0
    for seeker, at, updated_at, cv_hash, cv, job_ids in asked.iter_rows():
        if texts := known.get((seeker, updated_at, cv_hash)):
            is_open = open_at(opened.jobs, at, taken_by_first_match)
            rows = tuple(row_of[job] for job in job_ids if is_open[row_of[job]])
            n_not_open += len(job_ids) - len(rows)
            if rows:
                found.append((seeker, at, cv, texts, rows))
    if not found:
        raise DataError("no matched decision of the test window has a generated JD; run `girl materialize`")
    if limit is not None and limit < len(found):
        drawn = np.random.default_rng(0).choice(len(found), limit, replace=False)
        found = [found[i] for i in sorted(drawn)]
    table = encode_once(opened.encoder, [text for _, _, cv, texts, _ in found for text in (cv, *texts)])
    queries = [
        Query(seeker, at, cv, table.of([cv])[0], _mean(table, texts), rows) for seeker, at, cv, texts, rows in found
    ]
    return queries, n_not_open


def _seeker_queries(config: GirlConfig, tables: Tables, opened: Opened, seekers: Sequence[str]) -> list[Query]:
    known = generated_by_version(PartsStore(config.store_dir), opened.contract)
    queries, now = [], datetime.now(UTC)
    for seeker in dict.fromkeys(seekers):
        newest = tables.connection.execute(
            "SELECT cv, updated_at, cv_hash FROM job_seekers WHERE job_seeker_id = ? ORDER BY updated_at DESC LIMIT 1",
            [seeker],
        ).fetchone()
        if newest is None:
            raise DataError(f"no job seeker {seeker!r} in the tables; `girl check` says which rows were rejected")
        cv, updated_at, cv_hash = newest
        texts = known.get((seeker, updated_at.astimezone(UTC), cv_hash))
        if not texts:
            raise DataError(f"the newest CV of {seeker!r} has no generated JD; run `girl materialize`")
        table = encode_once(opened.encoder, [cv, *texts])
        queries.append(Query(seeker, now, cv, table.of([cv])[0], _mean(table, texts), ()))
    return queries


def _mean(table: VectorTable, texts: Sequence[str]) -> np.ndarray:
    return np.asarray(pool_samples(table.of(list(texts)), [len(texts)]).means[0])


def _matcher_scorer(opened: Opened) -> PairScorer:
    assert opened.matcher is not None
    matcher = opened.matcher

    def score(query: Query, rows: np.ndarray) -> np.ndarray:
        n = len(rows)
        features = PairFeatures(
            np.tile(query.cv_vector, (n, 1)),
            opened.jd_vectors[rows],
            np.tile(query.generated_jd_vector, (n, 1)),
            np.full(n, Tier.GENERATED, np.int8),
            opened.contract.fingerprint,
        )
        return matcher.score(features)

    return score


def _reward_scorer(model: RewardModel, jobs: JobTable) -> PairScorer:
    def score(query: Query, rows: np.ndarray) -> np.ndarray:
        return model.score([query.cv] * len(rows), [jobs.jds[row] for row in rows]).astype(np.float64)

    return score


def _reward_model(config: GirlConfig, windows: Windows) -> RewardModel | None:
    """The newest reward model, where there is one. LeakageError where it has seen the ranking labels."""
    if not trained_reward_models(config.rewards_dir):
        return None
    folder, record = find_reward_model(config)
    check_no_leakage(windows, record.trained_until)
    from girl_features.generator.reward_model import TransformersRewardModel

    return TransformersRewardModel(folder)


def _rows(
    data: str, method: str, metrics: GroundingMetrics, queries: Sequence[Query], n_not_open: int
) -> list[GroundingRow]:
    _, seeker = np.unique([query.job_seeker_id for query in queries], return_inverse=True)
    n_seekers = int(seeker.max()) + 1
    draws = np.random.default_rng(0).multinomial(n_seekers, np.full(n_seekers, 1 / n_seekers), size=N_BOOTSTRAP)
    weights = draws[:, seeker]  # (r, q): a seeker's queries come together
    rows, median_open = [], float(np.median(metrics.n_open))
    for cutoff in CUTOFFS:
        recall, ndcg = metrics.recall[cutoff], metrics.ndcg[cutoff]
        recalls, ndcgs = (percentile_interval(weights @ own / weights.sum(axis=1)) for own in (recall, ndcg))
        means, sizes = (float(recall.mean()), float(ndcg.mean())), (len(queries), n_seekers)
        row = data, method, cutoff, means[0], *recalls, means[1], *ndcgs, *sizes, median_open, n_not_open
        rows.append(GroundingRow(*row))
    return rows


def _chance_rows(data: str, metrics: GroundingMetrics, queries: Sequence[Query], n_not_open: int) -> list[GroundingRow]:
    """What a random order of the open jobs would find; its NDCG is not worked out."""
    n_seekers = len({query.job_seeker_id for query in queries})
    nan, sizes = float("nan"), (len(queries), n_seekers, float(np.median(metrics.n_open)), n_not_open)
    return [
        GroundingRow(data, "chance", cutoff, recall, recall, recall, nan, nan, nan, *sizes)
        for cutoff in CUTOFFS
        for recall in [chance_recall(metrics.n_open, cutoff)]
    ]


def grounding_table(rows: Sequence[GroundingRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells for people: a line a method."""
    by_method: dict[str, dict[int, GroundingRow]] = {}
    for row in rows:
        by_method.setdefault(row.method, {})[row.cutoff] = row
    header = ("method", *(f"recall@{c}" for c in CUTOFFS), "recall@10, 95 %", "NDCG@10", "NDCG@10, 95 %")
    lines = []
    for method, own in by_method.items():
        ten = own[10]
        known = not np.isnan(ten.ndcg)
        lines.append(
            (
                method,
                *(f"{own[c].recall:.3f}" for c in CUTOFFS),
                f"{ten.recall_low:.3f}, {ten.recall_high:.3f}" if known else "",
                f"{ten.ndcg:.3f}" if known else "",
                f"{ten.ndcg_low:.3f}, {ten.ndcg_high:.3f}" if known else "",
            )
        )
    return header, lines


def candidates_text(rows: Sequence[GroundingRow]) -> str:
    """What the rankings are of, in a sentence."""
    text = f"Among all jobs open at the time, {rows[0].n_open:.0f} in the median: a cutoff near that says little."
    left_out = rows[0].n_not_open
    return f"{text} {left_out} matches on jobs that somebody had taken before are left out." if left_out else text


def rows_as_json(rows: Sequence[GroundingRow]) -> list[dict[str, Any]]:
    """Plain values; what is not known is null."""
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row._asdict().items()} for row in rows]
