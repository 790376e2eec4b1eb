"""`girl judge`: the JDs of two generators for the same CVs, compared by a judge, or measured without one."""

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
from girl_features.evaluation.reference import cosine
from girl_features.evaluation.run import materialized_generators
from girl_features.generator.checkpoint import trained_reward_models
from girl_features.generator.opening import find_reward_model, load_encoder
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.data import generated_by_version, load_data
from girl_features.lab.judge.chat import Chat, Endpoint, KeptReplies, LocalChat
from girl_features.lab.judge.verdicts import JudgeReport, Pair, judge_pairs
from girl_features.progress import Progress
from girl_features.store.parts import PartsStore

N_CVS = 200  # as in the paper


class Measure(NamedTuple):
    """One number of each side, averaged over the CVs, and their difference with a 95 % interval. Not a judgement."""

    name: str
    left: float
    right: float
    difference: float
    low: float
    high: float


class MeasuresReport(NamedTuple):
    """What can be said without a judge. None of it is one."""

    n: int
    measures: list[Measure]
    reward_model: str | None  # name of the folder; None: there is none


class Sides(NamedTuple):
    """The two generators and what they wrote for the same unseen CVs."""

    left: str
    right: str
    pairs: list[Pair]
    encoder: TextEncoder


def read_sides(config: GirlConfig, left: str, right: str, n: int) -> Sides:
    """First JDs of both generators for up to `n` CVs of the test window whose seekers no generator has met.

    Args:
        config: with both generators materialized.
        left: row name, as `girl evaluate` has it: girl.
        right: row name: girl-sft.
        n: CVs, drawn at random.

    Raises:
        ConfigError: no such generator in the store, or the same twice.
        DataError: no CV of an unseen seeker has a JD of both.
    """
    encoder = load_encoder(config)
    chosen = materialized_generators(config, encoder)
    for name in (left, right):
        if name not in chosen:
            raise ConfigError(
                f"no materialized generator {name!r}; the store has {', '.join(chosen)}: train another stage and "
                f"`girl materialize --set generator.stage=...`"
            )
    if left == right:
        raise ConfigError(f"both sides are {left!r}; name two generators")
    return sides_of(config, encoder, (left, chosen[left][0]), (right, chosen[right][0]), n)


def sides_of(
    config: GirlConfig,
    encoder: TextEncoder,
    left: tuple[str, FeatureContract],
    right: tuple[str, FeatureContract],
    n: int,
) -> Sides:
    """As `read_sides`, of two contracts under names for people."""
    with open_tables(config) as tables:
        data = load_data(config.name, tables, cut_windows(tables, config.windows))
    store = PartsStore(config.store_dir)
    ours, theirs = (generated_by_version(store, contract) for _, contract in (left, right))
    met = set(data.history.job_seeker_ids.tolist())
    pairs: dict[str, Pair] = {}  # one a seeker
    for seeker, updated_at, cv_hash, cv in (
        data.decisions["test"].select("job_seeker_id", "updated_at", "cv_hash", "cv").iter_rows()
    ):
        key = (seeker, updated_at, cv_hash)
        if seeker not in met and seeker not in pairs and ours.get(key) and theirs.get(key):
            pairs[seeker] = Pair(cv, ours[key][0], theirs[key][0])
    if not pairs:
        raise DataError(f"no CV of an unseen seeker in the test window has JDs of both {left[0]} and {right[0]}")
    order = np.random.default_rng(0).permutation(len(pairs))[:n]
    listed = list(pairs.values())
    return Sides(left[0], right[0], [listed[i] for i in order], encoder)


def choose_chat(model: str | None, folder: Path) -> KeptReplies | None:
    """The local `model`, else the endpoint of the environment, with a memory in `folder`; None without either."""
    chat: Chat | None = LocalChat(model) if model is not None else Endpoint.from_environment()
    return None if chat is None else KeptReplies(chat, folder)


def run_judge(chat: Chat, sides: Sides, probe: int = 0) -> JudgeReport:
    """The judge's report on both sides. Errors as `judge_pairs`."""
    probe = min(probe, len(sides.pairs))
    with Progress("judge", len(sides.pairs) + probe, "pairs") as progress:
        return judge_pairs(chat, sides.pairs, probe=probe, progress=progress.advance)


def run_measures(config: GirlConfig, sides: Sides) -> MeasuresReport:
    """Reference-free measures of both sides, and the reward model's score where there is one. No judge is asked."""
    pairs = sides.pairs
    texts = [[pair.left for pair in pairs], [pair.right for pair in pairs]]
    cv_vectors = sides.encoder.encode([pair.cv for pair in pairs]).vectors
    columns: dict[str, list[np.ndarray]] = {
        "words": [np.array([len(t.split()) for t in own], float) for own in texts],
        "distinct pairs of words, share": [np.array([_distinct(t) for t in own]) for own in texts],
    }
    vectors = [sides.encoder.encode(own).vectors for own in texts]
    columns["cosine to the CV"] = [cosine(own, cv_vectors) for own in vectors]
    if len(pairs) > 1:
        columns["cosine to the CV, less that to other CVs"] = [_margin(own, cv_vectors) for own in vectors]
    reward = None
    if trained_reward_models(config.rewards_dir):
        folder, _ = find_reward_model(config)
        from girl_features.generator.reward_model import TransformersRewardModel

        model, reward = TransformersRewardModel(folder), folder.name
        columns["score of the reward model (PPO was trained on it)"] = [
            model.score([pair.cv for pair in pairs], own).astype(float) for own in texts
        ]
    draws = np.random.default_rng(0).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=1000)
    measures = []
    for name, (left, right) in columns.items():
        low, high = percentile_interval(draws @ (left - right) / len(pairs))
        difference = float((left - right).mean())
        measures.append(Measure(name, float(left.mean()), float(right.mean()), difference, low, high))
    return MeasuresReport(len(pairs), measures, reward)


def _distinct(text: str) -> float:
    words = text.lower().split()
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _margin(vectors: np.ndarray, cv_vectors: np.ndarray) -> np.ndarray:
    """(n,) cosine of each JD to its own CV, less its mean cosine to the other CVs: generic texts have none."""
    similar = vectors.astype(np.float64) @ cv_vectors.T.astype(np.float64)
    own = np.diag(similar)
    return np.asarray(own - (similar.sum(axis=1) - own) / (len(own) - 1))


def judge_lines(report: JudgeReport, sides: Sides) -> list[str]:
    """The judge's report for people."""
    lines = [f"judge: {report.judge}; {sides.left} against {sides.right} on {report.n} CVs of seekers never met"]
    for one in report.criteria:
        lines.append(
            f"{one.criterion}: win {one.win:.2f}, tie {one.tie:.2f}, lose {one.lose:.2f}; advantage "
            f"{one.advantage:+.2f}, 95 % interval {one.advantage_low:+.2f}, {one.advantage_high:+.2f}; "
            f"flipped with the order {one.flip_rate:.2f}"
        )
    lines.append(
        f"first place preferred {_share(report.first_place_rate)} (.50 is unbiased); longer text wins "
        f"{_share(report.longer_wins_rate)}, correlation with length {_share(report.length_correlation)}; mean words "
        f"{report.mean_words[0]:.0f} and {report.mean_words[1]:.0f}"
    )
    shift = "not tried (--probe)" if report.injection_shift is None else f"{report.injection_shift:+.2f}"
    lines.append(
        f"{report.n_invalid} of {2 * report.n} answers were not the JSON asked for and count as ties; texts that seem "
        f"to speak to the judge: {report.n_with_orders[0]} and {report.n_with_orders[1]}; advantage gained by orders "
        f"in the left text: {shift}"
    )
    return lines


def measures_lines(report: MeasuresReport, sides: Sides) -> list[str]:
    """The measures for people, labelled as what they are."""
    lines = [
        f"no judge was asked (GIRL_JUDGE_URL is not set, and no --model): reference-free measures of {sides.left} and "
        f"{sides.right} on {report.n} CVs of seekers never met; none of them is a judgement"
    ]
    lines += [
        f"{m.name}: {m.left:.3f} and {m.right:.3f}, difference {m.difference:+.3f}, "
        f"95 % interval {m.low:+.3f}, {m.high:+.3f}"
        for m in report.measures
    ]
    return lines if report.reward_model else [*lines, "there is no reward model: `girl train reward` makes one"]


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
