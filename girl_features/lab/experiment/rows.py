"""Features of each row of an experiment. `controls` and `several_jds` describe what the rows hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.config import EncoderTuningConfig, GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.controls.columns import control_columns
from girl_features.input.decision_texts import DecisionTexts
from girl_features.input.splits import Windows
from girl_features.input.tables import Tables
from girl_features.lab.experiment import controls
from girl_features.lab.experiment.data import ExperimentData
from girl_features.lab.experiment.row_names import parse_pooling
from girl_features.lab.experiment.several_jds import pool_generated_jds
from girl_features.lab.text_vectors import TextVectors, VectorTable
from girl_features.ranker import PairColumns, Ranker, TextRanker
from girl_features.schema import CV, JD
from girl_features.vectors.similarity import cosine

BASE_ROWS = ("base", "contrastive", "base-windows")  # their rankers have the form `base`
SHUFFLE_SEED = 0


class ExperimentSteps(NamedTuple):
    """Rankers, baselines and trainers, passed in as functions because they need optional packages.

    Workers import the functions by name.
    """

    make_ranker: Callable[[str, str, int], Ranker]
    make_baseline: Callable[..., TextRanker]  # from name and seed, `language_model` folder and its vector `table`
    train: Callable[[str, Tables, Windows, GirlConfig], Path]
    tune_encoder: Callable[[str, Sequence[str], Sequence[str], Path, datetime, EncoderTuningConfig], Path]
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
    base: RankingParts  # the windows without generated JDs, the same for every generator
    vectors: TextVectors  # of the encoder in use
    encoder: str  # name of the encoder in use, which `contrastive` tunes further
    encoder_tuning: EncoderTuningConfig
    folder: Path  # of tuned encoders and vectors


def row_features(
    row: str,
    prepared: PreparedData,
    reference: GeneratorFeatures | None,
    samples: GeneratorFeatures | None,
    steps: ExperimentSteps,
) -> RankingParts:
    """Return the features of `row`, a name without further columns.

    `shuffled` is made from `reference`, and rows such as `mean-4` from `samples`.
    """
    if row in prepared.generators:
        return prepared.generators[row].parts
    pooling = parse_pooling(row)
    if pooling is not None:
        assert samples is not None, "checked with the config"
        jds = [jd for part in samples.texts.values() for pair_jds in part for jd in pair_jds]
        return pool_generated_jds(samples.parts, samples.texts, prepared.vectors.table(jds), pooling)
    base = prepared.base
    if row == "cv-twice":
        return controls.cv_twice(base)
    if row == "shuffled":
        assert reference is not None, "checked with the config"
        return controls.shuffled(reference.parts, SHUFFLE_SEED)
    if row == "base":
        return base
    if row == "contrastive":
        return _contrastive_parts(prepared, base, steps)
    history = prepared.data.history
    table = prepared.vectors.table([*history.cvs, *history.jds])
    if row == "base-windows":
        cv, jd = table.of(list(history.cvs)), table.of(list(history.jds))
        return controls.more_training_pairs(base, cv, jd, history)
    cv, jd = map(table.of, history.matched_pairs)
    if row == "regression":
        return controls.regression(base, cv, jd)
    assert row == "neighbour", row
    return controls.neighbour(base, cv, jd)


def baseline_vectors(
    prepared: PreparedData, reference: GeneratorFeatures, baselines: Sequence[str], steps: ExperimentSteps
) -> VectorTable:
    """Return vectors, by the reference generator's language model, of all generated and real JDs of the windows."""
    if not any(name.startswith("bigrec") for name in baselines):
        return VectorTable({}, np.zeros((0, 1), np.float32))  # no other baseline reads them
    texts = [pair_jds[0] for part in reference.texts.values() for pair_jds in part if pair_jds]
    texts += [jd for frame in prepared.data.decisions.values() for jd in frame["jd"]]
    return TextVectors(steps.language_model_encoder(reference.folder), prepared.folder / "vectors").table(texts)


def base_parts(reference: GeneratorFeatures) -> RankingParts:
    """Return the windows of a generator without its JDs, of the encoder alone."""
    vectors = [(part.features.cv, part.features.jd) for part in reference.parts]
    return controls.with_vectors(reference.parts, vectors, reference.contract.encoder.fingerprint)


def encoded_parts(data: ExperimentData, encoder: TextEncoder, vectors: TextVectors) -> RankingParts:
    """Return the windows with the encoder's vectors of CV and JD, for an experiment without a generator."""
    frames = list(data.decisions.values())
    table = vectors.table([text for frame in frames for column in (CV, JD) for text in frame[column]])
    return RankingParts(*(_encoded(frame, table, encoder.contract.fingerprint) for frame in frames))


def control_table(prepared: PreparedData, names: Sequence[str], steps: ExperimentSteps) -> list[PairColumns]:
    """Return the columns `names` (of CONTROL_COLUMNS) for the pairs of each window; empty for no names."""
    if not names:
        return []
    windows = [DecisionTexts.of(frame) for frame in prepared.data.decisions.values()]

    def tuned_cosines(history: DecisionTexts, parts: Sequence[DecisionTexts], until: datetime) -> list[np.ndarray]:
        _, table = _tuned_vectors(prepared, steps)
        return [cosine(table.of(list(part.cvs)), table.of(list(part.jds))) for part in parts]

    return control_columns(prepared.data.history, windows, names, prepared.data.windows.rl_end, tuned_cosines)


def _contrastive_parts(prepared: PreparedData, base: RankingParts, steps: ExperimentSteps) -> RankingParts:
    encoder, table = _tuned_vectors(prepared, steps)
    frames = prepared.data.decisions.values()
    vectors = [(table.of(frame[CV].to_list()), table.of(frame[JD].to_list())) for frame in frames]
    return controls.with_vectors(base, vectors, encoder.contract.fingerprint)


def _tuned_vectors(prepared: PreparedData, steps: ExperimentSteps) -> tuple[TextEncoder, VectorTable]:
    """Return the encoder tuned on the matched pairs of the generator's windows, and its vectors of all texts."""
    (cvs, jds), settings = prepared.data.history.matched_pairs, prepared.encoder_tuning
    first, until = max(0, len(cvs) - settings.max_pairs), prepared.data.windows.rl_end
    folder = steps.tune_encoder(
        prepared.encoder, cvs[first:], jds[first:], prepared.folder / "encoders", until, settings
    )
    encoder = steps.open_encoder(str(folder))
    frames = prepared.data.decisions.values()
    texts = [text for frame in frames for column in (CV, JD) for text in frame[column]]
    return encoder, TextVectors(encoder, prepared.folder / "vectors").table(texts)


def _encoded(frame: pl.DataFrame, table: VectorTable, contract: str) -> LabelledPairs:
    cv, jd = (table.of(frame[column].to_list()) for column in (CV, JD))
    return LabelledPairs.of(controls.without_generated_jd(cv, jd, contract), frame)
