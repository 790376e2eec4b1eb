"""LightGBM rankers on columns of PairFeatures.

`lightgbm-plain` reads the raw vectors [c; j; (j')]. `lightgbm` reads cosines, and principal components of the vectors
with their products: trees split on one column at a time, so they cannot find a cosine in some hundred of them.

Early stopping and Platt scaling on the valid part, as for every ranker here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from girl_features.errors import CheckpointError, ConfigError, GirlError, require
from girl_features.integrations.rankers.pair_inputs import (
    ROWS_AT_ONCE,
    ColumnScaler,
    Row,
    check_features,
    check_scored,
    check_training_parts,
    columns_width,
    fit_scaler,
    scaled_columns,
    visible,
)
from girl_features.integrations.rankers.ranker_files import (
    RankerManifest,
    hashes,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from girl_features.ranker import PairFeatures
from girl_features.vectors.projection import PCA, fit_pca
from girl_features.vectors.regression import Calibration, fit_calibration

lightgbm = require("lightgbm", "rank")

TREES = "ranker.lightgbm.txt"
ARRAYS = "columns.safetensors"

N_COMPONENTS = 16
N_ROUNDS = 1000
PATIENCE = 50  # rounds without a lower valid log loss
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


class Form(NamedTuple):
    """The blocks of columns (see pair_inputs) made of whole vectors, and those made of their components."""

    whole: tuple[str, ...]
    reduced: tuple[str, ...] = ()


_COSINES = ("cos_cv_jd", "cos_generated_jd_jd", "cos_cv_generated_jd", "tier")
_REDUCED = ("cv", "jd", "cv_times_jd")

FORMS: dict[tuple[str, Row], Form] = {
    ("lightgbm-plain", "base"): Form(("cv", "jd")),
    ("lightgbm-plain", "enhanced"): Form(("cv", "jd", "generated_jd")),
    ("lightgbm", "base"): Form(("cos_cv_jd",), _REDUCED),
    ("lightgbm", "enhanced"): Form(_COSINES, (*_REDUCED, "generated_jd", "generated_jd_times_jd")),
}


class _Columns(NamedTuple):
    """How features become a matrix; fitted on the training part."""

    pca: PCA  # one map for all vectors, as one encoder made them: products of components make sense
    whole: ColumnScaler
    reduced: ColumnScaler


class _Fitted(NamedTuple):
    columns: _Columns
    trees: Any  # lightgbm.Booster
    calibration: Calibration
    contract: str
    dimension: int


class LightGBMRanker:
    """A Ranker of gradient-boosted trees. Same seed, data and number of threads: same scores."""

    def __init__(self, predictor: str, row: Row, seed: int = 0, num_threads: int = 1) -> None:
        """Raises ConfigError where FORMS has no such predictor and row."""
        if (predictor, row) not in FORMS:
            known = ", ".join(f"{name} {row}" for name, row in FORMS)
            raise ConfigError(f"no LightGBM ranker {predictor!r} {row!r}; known are: {known}")
        self.predictor, self.row, self.seed, self.num_threads = predictor, row, seed, num_threads
        self._form = FORMS[predictor, row]
        self._fitted: _Fitted | None = None

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Raises:
            ShapeError: a part is empty, of one class, or does not line up.
            InvalidVectorError: a NaN, infinite, all-zero or wrong-dimension vector.
            ContractMismatchError: the two parts are of different contracts.
        """
        check_training_parts(features, labels, valid_features, valid_labels, self.row)
        features, valid_features = visible(features, self.row), visible(valid_features, self.row)
        columns = _fit_columns(self._form, features)
        matrix, valid_matrix = (_matrix(self._form, columns, part) for part in (features, valid_features))
        train = lightgbm.Dataset(matrix, labels.astype(np.float32))
        trees = lightgbm.train(
            {**PARAMETERS, "seed": self.seed, "num_threads": self.num_threads},
            train,
            num_boost_round=N_ROUNDS,
            valid_sets=[lightgbm.Dataset(valid_matrix, valid_labels.astype(np.float32), reference=train)],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        trees = lightgbm.Booster(model_str=trees.model_to_string(num_iteration=trees.best_iteration))
        raw = trees.predict(valid_matrix, raw_score=True, num_threads=self.num_threads)
        calibration = fit_calibration(raw, valid_labels)
        self._fitted = _Fitted(columns, trees, calibration, features.contract, features.cv.shape[1])

    def score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1).

        Raises:
            ContractMismatchError: the features are of another contract than those trained on.
            InvalidVectorError: a NaN, infinite, all-zero or wrong-dimension vector, its row named.
            ShapeError: arrays do not line up.
        """
        fitted = self._require_fitted()
        return fitted.calibration.probabilities(self.raw_score(features))

    def raw_score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 summed leaves, before calibration. Errors as `score`."""
        fitted = self._require_fitted()
        check_features(features, self.row)
        check_scored(features, fitted.contract, fitted.dimension)
        features = visible(features, self.row)
        scores = [np.zeros(0)]
        for start in range(0, features.n_pairs, ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, features.n_pairs))
            matrix = _matrix(self._form, fitted.columns, features.take(rows))
            scores.append(fitted.trees.predict(matrix, raw_score=True, num_threads=self.num_threads))
        return np.concatenate(scores)

    def save(self, folder: Path) -> None:
        """Write trees (LightGBM's text), columns (safetensors) and manifest (JSON) to `folder`, made if need be."""
        fitted = self._require_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TREES).write_text(fitted.trees.model_to_string(), encoding="utf-8")
        write_arrays(folder / ARRAYS, _arrays(fitted.columns))
        manifest = RankerManifest(
            predictor=self.predictor,
            row=self.row,
            seed=self.seed,
            contract=fitted.contract,
            dimension=fitted.dimension,
            slope=fitted.calibration.slope,
            intercept=fitted.calibration.intercept,
            sha256=hashes(folder, (TREES, ARRAYS)),
        )
        write_manifest(folder, manifest)

    @classmethod
    def load(cls, folder: Path, num_threads: int = 1) -> LightGBMRanker:
        """The ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = read_manifest(folder, RankerManifest, (TREES, ARRAYS))
        if (manifest.predictor, manifest.row) not in FORMS:
            raise CheckpointError(f"{folder} holds a {manifest.predictor!r} ranker, not a LightGBM one")
        ranker = cls(manifest.predictor, manifest.row, manifest.seed, num_threads)
        columns = _read_columns(folder / ARRAYS, ranker._form, manifest.dimension)
        try:
            trees = lightgbm.Booster(model_str=(folder / TREES).read_text(encoding="utf-8"))
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{folder / TREES} is not a LightGBM text model: {error}") from error
        calibration = Calibration(manifest.slope, manifest.intercept)
        ranker._fitted = _Fitted(columns, trees, calibration, manifest.contract, manifest.dimension)
        return ranker

    def _require_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise GirlError(f"this {self.predictor} {self.row} ranker is not trained yet; call fit() or load()")
        return self._fitted


def _n_components(form: Form, dimension: int) -> int:
    return min(N_COMPONENTS, dimension) if form.reduced else 0


def _fit_columns(form: Form, features: PairFeatures) -> _Columns:
    vectors = np.concatenate([features.cv, features.jd])
    pca = fit_pca(vectors, _n_components(form, features.cv.shape[1]))
    return _Columns(pca, fit_scaler(features, form.whole), fit_scaler(_reduce(pca, features), form.reduced))


def _reduce(pca: PCA, features: PairFeatures) -> PairFeatures:
    """The same pairs with vectors of k components; generated ones only where the row sees them."""
    generated = features.generated_jd
    reduced = pca.project(generated) if generated.shape[1] else generated
    return features._replace(cv=pca.project(features.cv), jd=pca.project(features.jd), generated_jd=reduced)


def _matrix(form: Form, columns: _Columns, features: PairFeatures) -> np.ndarray:
    """(n, p) float32; standardising does not move a tree's splits, but gives pairs without j' their mean."""
    whole = scaled_columns(features, form.whole, columns.whole)
    reduced = scaled_columns(_reduce(columns.pca, features), form.reduced, columns.reduced)
    return np.concatenate([whole, reduced], axis=1)


def _arrays(columns: _Columns) -> dict[str, np.ndarray]:
    return {
        "pca.mean": columns.pca.mean,
        "pca.components": columns.pca.components,
        "whole.mean": columns.whole.mean,
        "whole.inverse_std": columns.whole.inverse_std,
        "reduced.mean": columns.reduced.mean,
        "reduced.inverse_std": columns.reduced.inverse_std,
    }


def _read_columns(path: Path, form: Form, dimension: int) -> _Columns:
    n_components = _n_components(form, dimension)
    whole, reduced = columns_width(form.whole, dimension), columns_width(form.reduced, n_components)
    shapes: dict[str, tuple[int, ...]] = {
        "pca.mean": (dimension,),
        "pca.components": (n_components, dimension),
        "whole.mean": (whole,),
        "whole.inverse_std": (whole,),
        "reduced.mean": (reduced,),
        "reduced.inverse_std": (reduced,),
    }
    arrays = read_arrays(path, shapes)
    return _Columns(
        PCA(arrays["pca.mean"], arrays["pca.components"]),
        ColumnScaler(arrays["whole.mean"], arrays["whole.inverse_std"]),
        ColumnScaler(arrays["reduced.mean"], arrays["reduced.inverse_std"]),
    )
