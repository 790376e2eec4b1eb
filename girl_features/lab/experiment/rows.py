"""Features of each row of an experiment. `controls` and `several_jds` describe what the rows hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.config import EncoderTuningConfig, GirlConfig
from girl_features.contract import FeatureContract
from girl_features.encoder import TextEncoder
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.controls.columns import control_columns
from girl_features.generator.prompts import style_of
from girl_features.input.decision_texts import DecisionTexts
from girl_features.input.splits import Windows
from girl_features.input.tables import Tables
from girl_features.lab.experiment import controls
from girl_features.lab.experiment.data import ExperimentData
from girl_features.lab.experiment.row_names import FIT, parse_pooling
from girl_features.lab.experiment.several_jds import pool_generated_jds
from girl_features.lab.pair_fits import PairFits, PairScorer
from girl_features.lab.text_vectors import TextVectors, VectorTable
from girl_features.ranker import PairColumns, Ranker, TextRanker
from girl_features.schema import CV, FIT_COLUMNS, JD
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
    open_fit_scorer: Callable[..., PairScorer]  # from the generator's folder, limits and prompt style
    fit_recipe: int  # what its columns mean


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


def added_columns(
    prepared: PreparedData,
    names: Sequence[str],
    reference: str | None,
    steps: ExperimentSteps,
    should_stop: Callable[[], bool],
) -> list[PairColumns]:
    """Return what `names` (of ADDED) stand for, for the pairs of each window; empty for no names.

    The fit is that of the generator `reference`.
    """
    if not names:
        return []
    windows = [DecisionTexts.of(frame) for frame in prepared.data.decisions.values()]

    def tuned_cosines(history: DecisionTexts, parts: Sequence[DecisionTexts], until: datetime) -> list[np.ndarray]:
        _, table = _tuned_vectors(prepared, steps)
        return [cosine(table.of(list(part.cvs)), table.of(list(part.jds))) for part in parts]

    history, controls = prepared.data.history, [name for name in names if name != FIT]
    columns = control_columns(history, windows, controls, prepared.data.windows.rl_end, tuned_cosines)
    if FIT not in names:
        return columns
    assert reference is not None, "checked with the config"
    fits = pair_fits(prepared.generators[reference], prepared.folder, steps, should_stop)
    cvs, jds = [cv for part in windows for cv in part.cvs], [jd for part in windows for jd in part.jds]
    ends = np.cumsum([len(part.cvs) for part in windows])[:-1]
    return [
        PairColumns((*own.names, *FIT_COLUMNS), np.concatenate([own.values, fit], axis=1))
        for own, fit in zip(columns, np.split(fits.of(cvs, jds), ends), strict=True)
    ]


def pair_fits(
    generator: GeneratorFeatures, folder: Path, steps: ExperimentSteps, should_stop: Callable[[], bool]
) -> PairFits:
    """Return the fits by a generator, kept in a folder of `folder` that is named by all that decides them."""
    contract, max_jd_tokens = generator.contract, generator.config.sft.max_jd_tokens
    weights = (contract.weights_sha256, contract.adapter_sha256, contract.prompt_version, contract.max_cv_tokens)
    inputs = (steps.fit_recipe, FIT_COLUMNS, *weights, max_jd_tokens)
    model = hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]
    scorer = partial(
        steps.open_fit_scorer,
        generator.folder,
        max_cv_tokens=contract.max_cv_tokens,
        max_jd_tokens=max_jd_tokens,
        style=style_of(contract.prompt_version),
    )
    return PairFits(scorer, folder / "fits" / model, should_stop)


def _contrastive_parts(prepared: PreparedData, base: RankingParts, steps: ExperimentSteps) -> RankingParts:
    encoder, table = _tuned_vectors(prepared, steps)
    frames = prepared.data.decisions.values()
    vectors = [(table.of(frame[CV].to_list()), table.of(frame[JD].to_list())) for frame in frames]
    return controls.with_vectors(base, vectors, encoder.contract.fingerprint)


def _tuned_vectors(prepared: PreparedData, steps: ExperimentSteps) -> tuple[TextEncoder, VectorTable]:
    """Return the encoder tuned on the matched pairs of the generator's windows, and its vectors of all texts."""
    settings, until = prepared.encoder_tuning, prepared.data.windows.rl_end
    cvs, jds = prepared.data.history.newest_matched_pairs(settings.max_pairs)
    folder = steps.tune_encoder(prepared.encoder, cvs, jds, prepared.folder / "encoders", until, settings)
    encoder = steps.open_encoder(str(folder))
    frames = prepared.data.decisions.values()
    texts = [text for frame in frames for column in (CV, JD) for text in frame[column]]
    return encoder, TextVectors(encoder, prepared.folder / "vectors").table(texts)


def _encoded(frame: pl.DataFrame, table: VectorTable, contract: str) -> LabelledPairs:
    cv, jd = (table.of(frame[column].to_list()) for column in (CV, JD))
    return LabelledPairs.of(controls.without_generated_jd(cv, jd, contract), frame)
