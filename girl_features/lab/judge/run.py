"""`girl judge`: compare the JDs of two generators for the same CVs, by a judge or by reference-free measures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.errors import ConfigError, DataError
from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.evaluation.run import materialized_generators
from girl_features.generator.checkpoint import trained_reward_models
from girl_features.generator.opening import find_reward_model, load_encoder
from girl_features.generator.words import words_of
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.data import generated_by_version, load_data
from girl_features.lab.judge.chat import Chat, KeptReplies, LocalChat
from girl_features.lab.judge.endpoint import Endpoint
from girl_features.lab.judge.question import JDPair
from girl_features.lab.judge.verdicts import N_BOOTSTRAP, JudgeReport
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import keep_out_of_git
from girl_features.vectors.similarity import cosine

N_CVS = 200  # as in the paper


class Measure(NamedTuple):
    """Mean of one reference-free number for each generator, and the difference with its 95 % interval."""

    name: str
    left: float
    right: float
    difference: float
    low: float
    high: float


class MeasuresReport(NamedTuple):
    """Reference-free measures of two generators on n CVs. None of them is a judgement."""

    n: int
    measures: list[Measure]
    reward_model: str | None  # name of its folder; None if there is no reward model


class Sides(NamedTuple):
    """Names of two generators, and the JDs they wrote for the same unseen CVs."""

    left: str
    right: str
    pairs: list[JDPair]
    encoder: TextEncoder


def read_sides(config: GirlConfig, left: str, right: str, n: int) -> Sides:
    """Read the first JDs of both generators for at most n CVs of the test window whose seekers no generator has seen.

    The CVs are drawn at random. `left` and `right` are row names as in `girl evaluate`, such as girl and girl-sft.

    Raises:
        ConfigError: the store has no such generator, or `left` equals `right`.
        DataError: no CV of an unseen seeker has JDs of both generators.
    """
    encoder = load_encoder(config)
    materialized = materialized_generators(config, encoder)
    for name in (left, right):
        if name not in materialized:
            raise ConfigError(
                f"no materialized generator {name!r}; the store has {', '.join(materialized)}: train another stage and "
                f"`girl materialize --set generator.stage=...`"
            )
    if left == right:
        raise ConfigError(f"both sides are {left!r}; name two generators")
    return sides_of(config, encoder, (left, materialized[left][0]), (right, materialized[right][0]), n)


def sides_of(
    config: GirlConfig,
    encoder: TextEncoder,
    left: tuple[str, FeatureContract],
    right: tuple[str, FeatureContract],
    n: int,
) -> Sides:
    """Read the same as `read_sides`, given the name and contract of each generator."""
    with open_tables(config) as tables:
        data = load_data(config.name, tables, cut_windows(tables, config.windows))
    store = PartsStore(config.store_dir)
    left_jds, right_jds = (generated_by_version(store, contract) for _, contract in (left, right))
    seen_seekers = set(data.history.job_seeker_ids.tolist())
    pairs: dict[str, JDPair] = {}  # one pair per seeker
    for *version, cv in data.decisions["test"].select("job_seeker_id", "updated_at", "cv_hash", "cv").iter_rows():
        key, seeker = tuple(version), version[0]
        if seeker not in seen_seekers and seeker not in pairs and left_jds.get(key) and right_jds.get(key):
            pairs[seeker] = JDPair(cv, left_jds[key][0], right_jds[key][0])
    if not pairs:
        raise DataError(f"no CV of an unseen seeker in the test window has JDs of both {left[0]} and {right[0]}")
    order = np.random.default_rng(0).permutation(len(pairs))[:n]
    all_pairs = list(pairs.values())
    return Sides(left[0], right[0], [all_pairs[i] for i in order], encoder)


def choose_chat(model: str | None, folder: Path) -> KeptReplies | None:
    """Return the local `model` or the environment's endpoint, replies kept in `folder`; None if there is neither."""
    chat: Chat | None = LocalChat(model) if model is not None else Endpoint.from_environment()
    if chat is None:
        return None
    keep_out_of_git(folder, ["*"])
    return KeptReplies(chat, folder)


def run_measures(config: GirlConfig, sides: Sides) -> MeasuresReport:
    """Return reference-free measures of both generators, with the reward model's score if there is a reward model."""
    cvs = [pair.cv for pair in sides.pairs]
    texts = [[pair.left for pair in sides.pairs], [pair.right for pair in sides.pairs]]
    cv_vectors = sides.encoder.encode(cvs).vectors
    vectors = [sides.encoder.encode(jds).vectors for jds in texts]
    columns: dict[str, list[np.ndarray]] = {  # measure -> (n,) values of the left and of the right JDs
        "words": [np.array([len(words_of(jd)) for jd in jds], float) for jds in texts],
        "distinct pairs of words, share": [np.array([_distinct_share(jd) for jd in jds]) for jds in texts],
        "cosine to the CV": [cosine(jd_vectors, cv_vectors) for jd_vectors in vectors],
    }
    if len(cvs) > 1:
        columns["cosine to the CV, less that to other CVs"] = [_margin(jds, cv_vectors) for jds in vectors]
    reward = None
    if trained_reward_models(config.rewards_dir):
        folder, _ = find_reward_model(config)
        from girl_features.generator.reward_model import TransformersRewardModel

        model, reward = TransformersRewardModel(folder), folder.name
        scores = [model.score(cvs, jds).astype(float) for jds in texts]
        columns["score of the reward model (PPO was trained on it)"] = scores
    return MeasuresReport(len(cvs), [_measure(name, left, right) for name, (left, right) in columns.items()], reward)


def _measure(name: str, left: np.ndarray, right: np.ndarray) -> Measure:
    """Compare (n,) values of the left and right JDs; the interval comes from resampled CVs."""
    n = len(left)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP)
    interval = percentile_interval(draws @ (left - right) / n)
    return Measure(name, float(left.mean()), float(right.mean()), float((left - right).mean()), *interval)


def _distinct_share(text: str) -> float:
    """Return the share of distinct ones among the pairs of neighbouring words."""
    pairs = list(pairwise(words_of(text.lower())))
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _margin(jd_vectors: np.ndarray, cv_vectors: np.ndarray) -> np.ndarray:
    """Return (n,) cosines of each JD to its CV, minus the mean cosine to the other CVs: near zero for generic JDs."""
    cosines = jd_vectors.astype(np.float64) @ cv_vectors.T.astype(np.float64)
    to_its_cv = np.diag(cosines)
    return np.asarray(to_its_cv - (cosines.sum(axis=1) - to_its_cv) / (len(to_its_cv) - 1))


def judge_lines(report: JudgeReport, sides: Sides) -> list[str]:
    """Format the judge's report as lines of text."""
    shift = "not measured (use --probe)" if report.injection_shift is None else f"{report.injection_shift:+.2f}"
    return [
        f"judge: {report.judge}; {sides.left} against {sides.right} on {report.n} CVs of unseen seekers",
        *(
            f"{row.criterion}: win {row.win:.2f}, tie {row.tie:.2f}, lose {row.lose:.2f}; advantage "
            f"{row.advantage:+.2f}, 95 % interval {row.advantage_low:+.2f}, {row.advantage_high:+.2f}; "
            f"winner changed with the order {row.flip_rate:.2f}"
            for row in report.criteria
        ),
        f"first place preferred {_share(report.first_place_rate)} (.50 is unbiased); longer JD wins "
        f"{_share(report.longer_wins_rate)}, correlation with length {_share(report.length_correlation)}; mean words "
        f"{report.mean_words[0]:.0f} and {report.mean_words[1]:.0f}",
        f"{report.n_invalid} of {2 * report.n} answers were not the JSON asked for and count as ties; JDs that contain "
        f"instructions to the judge: {report.n_with_orders[0]} and {report.n_with_orders[1]}; advantage gained by "
        f"instructions in the left JDs: {shift}",
    ]


def measures_lines(report: MeasuresReport, sides: Sides) -> list[str]:
    """Format the measures as lines of text that say they are no judgement."""
    lines = [
        f"no judge was asked (GIRL_JUDGE_URL is not set, and no --model): reference-free measures of {sides.left} and "
        f"{sides.right} on {report.n} CVs of unseen seekers; none of them is a judgement"
    ]
    lines += [
        f"{m.name}: {m.left:.3f} and {m.right:.3f}, difference {m.difference:+.3f}, "
        f"95 % interval {m.low:+.3f}, {m.high:+.3f}"
        for m in report.measures
    ]
    return lines if report.reward_model else [*lines, "there is no reward model: `girl train reward` trains one"]


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
