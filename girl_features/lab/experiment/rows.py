"""Features of each row of an experiment. `controls` and `several_jds` describe what the rows hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.evaluation.compare import RankingParts
from girl_features.input.splits import Windows
from girl_features.input.tables import Tables
from girl_features.lab.experiment import controls
from girl_features.lab.experiment.config import parse_pooling
from girl_features.lab.experiment.data import ExperimentData, History
from girl_features.lab.experiment.several_jds import pool_generated_jds
from girl_features.lab.text_vectors import TextVectors, VectorTable
from girl_features.ranker import Ranker, TextRanker

BASE_ROWS = ("base", "contrastive", "base-windows")  # their rankers have the form `base`
SHUFFLE_SEED = 0


class ExperimentSteps(NamedTuple):
    """Rankers, baselines and trainers, passed in as functions because they need optional packages.

    Workers import the functions by name.
    """

    make_ranker: Callable[[str, str, int], Ranker]
    make_baseline: Callable[..., TextRanker]  # from name and seed, `language_model` folder and its vector `table`
    train: Callable[[str, Tables, Windows, GirlConfig], Path]
    tune_encoder: Callable[[str, Sequence[str], Sequence[str], Path], Path]
    open_encoder: Callable[[str], TextEncoder]
    language_model_encoder: Callable[[Path], TextEncoder]


class GeneratorFeatures(NamedTuple):
    """Features and texts of one generator for the ranking windows."""

    config: GirlConfig  # `generator.checkpoint` names the trained checkpoint
    contract: FeatureContract
    folder: Path  # of the generator
    parts: RankingParts
    texts: dict[str, np.ndarray]  # part -> (n,) object array of tuples of generated JDs
    tokens_per_cv: float  # mean new tokens for all JDs of one CV
    training: str  # stage, number of training examples and metrics, in words


class PreparedData(NamedTuple):
    """One data set with its generators trained and materialized, and its windows read."""

    name: str
    simulation: bool
    data: ExperimentData
    generators: dict[str, GeneratorFeatures]
    vectors: TextVectors  # of the encoder in use
    encoder: str  # name of the encoder in use, which `contrastive` tunes further
    folder: Path  # of tuned encoders and vectors


def row_features(
    row: str,
    prepared: PreparedData,
    reference: GeneratorFeatures,
    samples: GeneratorFeatures | None,
    steps: ExperimentSteps,
) -> RankingParts:
    """Return the features of `row`: controls are made from `reference`, rows such as `mean-4` from `samples`."""
    if row in prepared.generators:
        return prepared.generators[row].parts
    pooling = parse_pooling(row)
    if pooling is not None:
        assert samples is not None, "checked with the config"
        jds = [jd for part in samples.texts.values() for pair_jds in part for jd in pair_jds]
        return pool_generated_jds(samples.parts, samples.texts, prepared.vectors.table(jds), pooling)
    if row == "cv-twice":
        return controls.cv_twice(reference.parts)
    if row == "shuffled":
        return controls.shuffled(reference.parts, SHUFFLE_SEED)
    base = _base_parts(reference)
    if row == "base":
        return base
    if row == "contrastive":
        return _contrastive_parts(prepared, base, steps)
    history = prepared.data.history
    table = prepared.vectors.table([*history.cvs, *history.jds])
    if row == "base-windows":
        cv, jd = table.of(list(history.cvs)), table.of(list(history.jds))
        return controls.more_training_pairs(base, cv, jd, history)
    cv, jd = map(table.of, _matched_texts(history))
    if row == "regression":
        return controls.regression(reference.parts, cv, jd)
    assert row == "neighbour", row
    return controls.neighbour(reference.parts, cv, jd)


def baseline_vectors(
    prepared: PreparedData, reference: GeneratorFeatures, baselines: Sequence[str], steps: ExperimentSteps
) -> VectorTable:
    """Return vectors, by the reference generator's language model, of all generated and real JDs of the windows."""
    if not any(name.startswith("bigrec") for name in baselines):
        return VectorTable({}, np.zeros((0, 1), np.float32))  # no other baseline reads them
    texts = [pair_jds[0] for part in reference.texts.values() for pair_jds in part if pair_jds]
    texts += [jd for frame in prepared.data.decisions.values() for jd in frame["jd"]]
    return TextVectors(steps.language_model_encoder(reference.folder), prepared.folder / "vectors").table(texts)


def _base_parts(reference: GeneratorFeatures) -> RankingParts:
    """Return the windows without generated JDs, of the encoder alone, so that base is the same for every generator."""
    vectors = [(part.features.cv, part.features.jd) for part in reference.parts]
    return controls.with_vectors(reference.parts, vectors, reference.contract.encoder.fingerprint)


def _contrastive_parts(prepared: PreparedData, base: RankingParts, steps: ExperimentSteps) -> RankingParts:
    cvs, jds = _matched_texts(prepared.data.history)
    folder = steps.tune_encoder(prepared.encoder, cvs, jds, prepared.folder / "encoders")
    encoder = steps.open_encoder(str(folder))
    frames = list(prepared.data.decisions.values())
    texts = [text for frame in frames for column in ("cv", "jd") for text in frame[column]]
    table = TextVectors(encoder, prepared.folder / "vectors").table(texts)
    vectors = [(table.of(frame["cv"].to_list()), table.of(frame["jd"].to_list())) for frame in frames]
    return controls.with_vectors(base, vectors, encoder.contract.fingerprint)


def _matched_texts(history: History) -> tuple[list[str], list[str]]:
    """Return CVs and JDs of the matched decisions of the generator's windows whose CV is not empty."""
    matched = history.matched & np.array([bool(cv.strip()) for cv in history.cvs], bool)
    return list(history.cvs[matched]), list(history.jds[matched])
