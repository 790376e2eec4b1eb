"""A row's name -> the features its rankers get. See `controls` and `several_jds` for what each of them is."""

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
from girl_features.lab.experiment.cells import TextParts
from girl_features.lab.experiment.config import ExperimentConfig, pooled
from girl_features.lab.experiment.data import PARTS, ExperimentData, pair_texts
from girl_features.lab.experiment.several_jds import pool_samples
from girl_features.lab.text_vectors import TextVectors, VectorTable
from girl_features.ranker import Ranker, TextRanker

SHUFFLE_SEED = 0


class Steps(NamedTuple):
    """What lies outside the core: rankers, baselines, trainers. Functions that can be imported by name."""

    make_ranker: Callable[[str, str, int], Ranker]
    make_baseline: Callable[[str, int, Path, VectorTable], TextRanker]
    train: Callable[[str, Tables, Windows, GirlConfig], Path]
    tune_encoder: Callable[[str, Sequence[str], Sequence[str], Path], Path]
    open_encoder: Callable[[str], TextEncoder]
    language_model_encoder: Callable[[Path], TextEncoder]
    fit_logistic: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sources: tuple[Path, ...]  # code that decides what a fit gives


class ArmFeatures(NamedTuple):
    """What one generator gave for the ranking windows."""

    config: GirlConfig  # with `generator.checkpoint` at what was trained
    contract: FeatureContract
    folder: Path  # of the generator
    parts: RankingParts
    texts: dict[str, np.ndarray]  # part -> (n,) object array of tuples of generated JDs
    tokens_a_cv: float  # mean new tokens for all JDs of one CV
    notes: tuple[str, ...]


class Prepared(NamedTuple):
    """One data set, trained, materialized and read."""

    name: str
    simulation: bool
    data: ExperimentData
    arms: dict[str, ArmFeatures]
    vectors: TextVectors  # of the encoder in use
    encoder: str  # its name, to tune it further
    folder: Path  # where tuned encoders and further vectors are kept


class RowFeatures(NamedTuple):
    """The ranking windows as one row's rankers see them."""

    form: str  # base or enhanced
    parts: RankingParts
    weighs_spread: bool = False


def row_features(row: str, prepared: Prepared, config: ExperimentConfig, steps: Steps) -> RowFeatures:
    """The features of `row`; whatever has to be encoded or tuned for it is kept on disk.

    Raises:
        ShapeError: too little data for a control.
    """
    reference = prepared.arms[config.reference_arm]
    if row in prepared.arms:
        return RowFeatures("enhanced", prepared.arms[row].parts)
    if (wanted := pooled(row)) is not None:
        assert config.samples is not None
        arm = prepared.arms[config.samples]
        table = prepared.vectors.table([t for texts in arm.texts.values() for own in texts for t in own])
        parts = pool_samples(arm.parts, arm.texts, table, wanted)
        return RowFeatures("enhanced", parts, wanted.pooling == "dispersion")
    if row == "cv-twice":
        return RowFeatures("enhanced", controls.cv_twice(reference.parts))
    if row == "shuffled":
        return RowFeatures("enhanced", controls.shuffled(reference.parts, SHUFFLE_SEED))
    base = _base(reference)
    if row == "base":
        return RowFeatures("base", base)
    if row == "contrastive":
        return RowFeatures("base", _contrastive(prepared, base, steps))
    history = prepared.data.history
    table = prepared.vectors.table([*history.cvs, *history.jds])
    if row == "base-windows":
        cv, jd = table.of(list(history.cvs)), table.of(list(history.jds))
        return RowFeatures("base", controls.more_training_pairs(base, cv, jd, history))
    chosen = _matched(prepared)
    cv, jd = table.of(list(history.cvs[chosen])), table.of(list(history.jds[chosen]))
    make = {"regression": controls.regression, "neighbour": controls.neighbour}[row]
    return RowFeatures("enhanced", make(reference.parts, cv, jd))


def baseline_parts(prepared: Prepared, config: ExperimentConfig) -> TextParts:
    """Ids and texts of the ranking windows, with the JDs of the reference generator."""
    decisions = prepared.data.decisions
    texts = pair_texts(prepared.data, prepared.arms[config.reference_arm].texts)
    return TextParts(texts, {part: decisions[part]["matched"].to_numpy() for part in PARTS})


def baseline_vectors(prepared: Prepared, config: ExperimentConfig, steps: Steps) -> VectorTable:
    """The reference generator's own vectors of every generated and real JD of the ranking windows."""
    if not any(name.startswith("bigrec") for name in config.baselines):
        return VectorTable({}, np.zeros((0, 1), np.float32))  # nobody else asks for them
    arm = prepared.arms[config.reference_arm]
    texts = [own[0] for part in arm.texts.values() for own in part if own]
    texts += [jd for frame in prepared.data.decisions.values() for jd in frame["jd"]]
    return TextVectors(steps.language_model_encoder(arm.folder), prepared.folder / "vectors").table(texts)


def _base(reference: ArmFeatures) -> RankingParts:
    """No generated JD, and the encoder's fingerprint alone: another generator leaves base as it is."""
    vectors = [(part.features.cv, part.features.jd) for part in reference.parts]
    return controls.with_vectors(reference.parts, vectors, reference.contract.encoder.fingerprint)


def _contrastive(prepared: Prepared, base: RankingParts, steps: Steps) -> RankingParts:
    history, decisions = prepared.data.history, prepared.data.decisions
    chosen = _matched(prepared)
    folder = steps.tune_encoder(
        prepared.encoder, list(history.cvs[chosen]), list(history.jds[chosen]), prepared.folder / "encoders"
    )
    encoder = steps.open_encoder(str(folder))
    frames = [decisions[part] for part in PARTS]
    texts = [text for frame in frames for column in ("cv", "jd") for text in frame[column]]
    table = TextVectors(encoder, prepared.folder / "vectors").table(texts)
    vectors = [(table.of(frame["cv"].to_list()), table.of(frame["jd"].to_list())) for frame in frames]
    return controls.with_vectors(base, vectors, encoder.contract.fingerprint)


def _matched(prepared: Prepared) -> np.ndarray:
    """(m,) bool: matched decisions of the generator's windows with a CV that says something."""
    history = prepared.data.history
    says_something = np.array([bool(cv.strip()) for cv in history.cvs], bool)
    wanted: np.ndarray = history.matched & says_something
    return wanted
