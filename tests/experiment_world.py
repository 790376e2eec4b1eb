"""A made-up data set and fake steps for the experiment runner.

`python -m tests.experiment_world FOLDER LOG` runs the experiment, so that a test can kill it.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from girl_features.config import EncoderTuningConfig, GirlConfig
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.input.decision_texts import DecisionTexts
from girl_features.input.splits import Windows
from girl_features.lab.experiment.config import ExperimentConfig
from girl_features.lab.experiment.data import ExperimentData
from girl_features.lab.experiment.rows import ExperimentSteps, GeneratorFeatures, PreparedData, base_parts
from girl_features.lab.experiment.run import run_experiment
from girl_features.lab.text_vectors import TextVectors, VectorTable
from girl_features.ranker import PairFeatures, PairTexts
from girl_features.schema import Tier
from tests.fakes import HashingEncoder, feature_contract
from tests.text_pairs import objects

D = 8
CONFIG: dict[str, Any] = {
    "name": "trial",
    "workspace": "out",
    "data": {"market": {"config": "girl.yaml", "simulation": True}},
    "generators": {"girl": {"stages": ["sft"]}},
    "samples": "girl",
    "grids": [
        {"rows": ["base", "girl", "cv-twice", "shuffled"], "predictors": ["column"]},
        {"rows": ["regression", "neighbour", "base-windows", "mean-1", "dispersion-2"], "predictors": ["column"]},
    ],
    "baselines": ["ncf", "bigrec"],
    "seeds": [0, 1],
    "n_bootstrap": 100,
    "claims": [
        {"name": "better", "subject": "column/girl", "over": "column/base", "cause": "windows"},
        {"name": "worse", "subject": "column/base", "over": "column/girl"},
        {"name": "same", "subject": "column/base", "over": "column/base"},
    ],
}


GIRL = GirlConfig.model_validate(
    {"tables": {name: {"path": f"{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")}}
)


def config_for(folder: Path, **changes: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({**CONFIG, "workspace": folder / "out", **changes})


def prepared_for(folder: Path, name: str) -> PreparedData:
    """Return a data set of 60 seekers with six test pairs each. Half of the seekers are in the training part.

    The first entry of j' predicts a match well, that of c badly.
    """
    contract = feature_contract(n=2, dimension=D)
    frames, parts, texts = {}, {}, {}
    for number, part in enumerate(("train", "valid", "test")):
        seekers = np.repeat(np.arange(30 if part == "train" else 60), 3 if part == "train" else 6)
        frames[part], parts[part] = _part(seekers, number, contract.fingerprint)
        texts[part] = objects([(f"jd {s % 7} first", f"jd {s % 5} second") for s in seekers])
    rng = np.random.default_rng(9)
    history = DecisionTexts(
        np.array([f"seeker-{i}" for i in range(40)]),
        np.array([f"job-{i}" for i in range(40)]),
        objects([f"cv {i}" for i in range(40)]),
        objects([f"jd {i}" for i in range(40)]),
        rng.random(40) < 0.6,
    )
    start = datetime(2021, 1, 1, tzinfo=UTC)
    windows = Windows(*(start + timedelta(days=i) for i in range(5)))
    data = ExperimentData(name, frames, history, windows)
    market = folder / "out" / "trial" / name
    vectors = TextVectors(HashingEncoder(D), market / "vectors")
    generator = GeneratorFeatures(GIRL, contract, folder, RankingParts(**parts), texts, 24.0, "stage sft")
    return PreparedData(
        name, True, data, {"girl": generator}, base_parts(generator), vectors, "hashing", EncoderTuningConfig(), market
    )


def _part(seekers: np.ndarray, seed: int, contract: str) -> tuple[pl.DataFrame, LabelledPairs]:
    rng = np.random.default_rng(seed)
    n = len(seekers)
    labels = rng.random(n) < 0.4
    cv, jd, generated = (rng.normal(size=(n, D)).astype(np.float32) for _ in range(3))
    cv[:, 0] += 0.5 * labels
    generated[:, 0] += 3.0 * labels
    ids = np.array([f"seeker-{s}" for s in seekers])
    cold = seekers >= 30
    frame = pl.DataFrame(
        {
            "job_seeker_id": ids,
            "job_id": [f"job-{i}" for i in range(n)],
            "matched": labels,
            "is_cold_start": cold,
            "cv": [f"cv {s}" for s in seekers],
            "jd": [f"jd {i % 9}" for i in range(n)],
        }
    )
    features = PairFeatures(cv, jd, generated, np.full(n, Tier.GENERATED, np.int8), contract)
    return frame, LabelledPairs(features, labels, ids, cold)


class FirstEntry:
    """Scores by the logistic function of the first entry of j' (`enhanced`) or of c (`base`).

    The predictors `nan` and `short` return invalid scores: NaN, or three scores only.
    """

    def __init__(self, predictor: str, form: str, seed: int, log: str) -> None:
        self._predictor, self._form, self._seed, self._log = predictor, form, seed, log
        time.sleep(float(os.environ.get("SLOW_FIT", "0")))

    def fit(self, features: PairFeatures, labels: np.ndarray, *_: object) -> None:
        note = f"{self._predictor} {self._form} {float(features.generated_jd.sum()):.6f} {len(labels)} {self._seed}"
        _write(self._log, note)

    def score(self, features: PairFeatures) -> np.ndarray:
        column = (features.generated_jd if self._form == "enhanced" else features.cv)[:, 0].astype(float)
        if self._predictor == "nan":
            return np.full(len(column), np.nan)
        scores = np.asarray(1 / (1 + np.exp(-(column - 1.5) - 0.01 * self._seed)))
        return scores[:3] if self._predictor == "short" else scores


class Constant:
    """A text ranker with random scores."""

    def __init__(self, name: str, seed: int, log: str) -> None:
        self._rng, self._note, self._log = np.random.default_rng(seed), f"{name} {seed}", log

    def fit(self, texts: PairTexts, *_: object) -> None:
        assert texts.n_pairs
        _write(self._log, self._note)

    def score(self, texts: PairTexts) -> np.ndarray:
        return self._rng.uniform(0.1, 0.9, texts.n_pairs)


def make_first_entry(predictor: str, form: str, seed: int, log: str = "") -> FirstEntry:
    return FirstEntry(predictor, form, seed, log)


def make_constant(name: str, seed: int, language_model: Path, table: VectorTable, log: str = "") -> Constant:
    return Constant(name, seed, log)


def _write(log: str, note: str) -> None:
    if log:
        with Path(log).open("a") as file:
            file.write(note + "\n")


def _nothing(*_: object) -> Any:
    raise AssertionError("not part of this experiment")


def _hashing(folder: Path) -> HashingEncoder:
    return HashingEncoder(D)


def steps_for(log: Path | None = None) -> ExperimentSteps:
    return ExperimentSteps(
        make_ranker=partial(make_first_entry, log=str(log) if log else ""),
        make_baseline=partial(make_constant, log=str(log) if log else ""),
        train=_nothing,
        tune_encoder=_nothing,
        open_encoder=_nothing,
        language_model_encoder=_hashing,
        open_fit_scorer=_nothing,
        fit_recipe=1,
    )


if __name__ == "__main__":
    root, log_file = Path(sys.argv[1]), Path(sys.argv[2])
    run_experiment(config_for(root), steps_for(log_file), lambda name: prepared_for(root, name))
