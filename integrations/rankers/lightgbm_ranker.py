"""LightGBM rankers on columns of PairFeatures.

`lightgbm-plain` reads the raw vectors [c; j; (j')]. `lightgbm` reads cosines, and principal components of the vectors
with their products: trees split on one column at a time, so they cannot find a cosine in hundreds of raw columns.

Training stops early on the valid part, and Platt scaling is fitted on it, as for every ranker here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np

from girl_features.errors import CheckpointError, ConfigError, GirlError
from girl_features.integrations.rankers import ranker_files as files
from girl_features.integrations.rankers.pair_inputs import (
    COSINE_BLOCKS,
    ColumnScaler,
    RankerRow,
    check_columns_read,
    check_scored,
    check_training_parts,
    columns_width,
    fit_scaler,
    parts,
    scaled_columns,
    visible,
)
from girl_features.ranker import PairFeatures
from girl_features.vectors.projection import PCA, fit_pca
from girl_features.vectors.regression import fit_calibration

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


class TreeColumns(NamedTuple):
    """Blocks of columns (see pair_inputs) that the trees read."""

    whole: tuple[str, ...]  # made of whole vectors
    reduced: tuple[str, ...] = ()  # made of principal components


_REDUCED = ("cv", "jd", "cv_times_jd")

TREE_COLUMNS: dict[tuple[str, RankerRow], TreeColumns] = {
    ("lightgbm-plain", "base"): TreeColumns(("cv", "jd")),
    ("lightgbm-plain", "enhanced"): TreeColumns(("cv", "jd", "generated_jd")),
    ("lightgbm", "base"): TreeColumns(("cos_cv_jd", "columns"), _REDUCED),
    ("lightgbm", "enhanced"): TreeColumns(
        (*COSINE_BLOCKS, "columns"), (*_REDUCED, "generated_jd", "generated_jd_times_jd")
    ),
}


class _MatrixMaker(NamedTuple):
    """Turns features into the matrix the trees read; fitted on the training part."""

    blocks: TreeColumns
    pca: PCA  # one map for CVs, JDs and generated JDs, so that products of their components have a meaning
    whole: ColumnScaler
    reduced: ColumnScaler

    @classmethod
    def fit(cls, blocks: TreeColumns, features: PairFeatures) -> _MatrixMaker:
        vectors = np.concatenate([features.cv, features.jd])
        pca = fit_pca(vectors, _n_components(blocks, features.cv.shape[1]))
        reduced = fit_scaler(_reduce(pca, features), blocks.reduced)
        return cls(blocks, pca, fit_scaler(features, blocks.whole), reduced)

    @classmethod
    def read(cls, path: Path, blocks: TreeColumns, dimension: int, n_columns: int) -> _MatrixMaker:
        """Read what `arrays` returned."""
        k = _n_components(blocks, dimension)
        shapes: dict[str, tuple[int, ...]] = {"pca.mean": (dimension,), "pca.components": (k, dimension)}
        shapes |= ColumnScaler.shapes("whole", columns_width(blocks.whole, dimension, n_columns))
        shapes |= ColumnScaler.shapes("reduced", columns_width(blocks.reduced, k, n_columns))
        arrays = files.read_arrays(path, shapes)
        pca = PCA(arrays["pca.mean"], arrays["pca.components"])
        return cls(blocks, pca, ColumnScaler.from_arrays(arrays, "whole"), ColumnScaler.from_arrays(arrays, "reduced"))

    def arrays(self) -> dict[str, np.ndarray]:
        pca = {"pca.mean": self.pca.mean, "pca.components": self.pca.components}
        return pca | self.whole.arrays("whole") | self.reduced.arrays("reduced")

    def matrix(self, features: PairFeatures) -> np.ndarray:
        """Return (n, p) float32. Scaling does not change the trees; it sets missing columns to their mean."""
        whole = scaled_columns(features, self.blocks.whole, self.whole)
        reduced = scaled_columns(_reduce(self.pca, features), self.blocks.reduced, self.reduced)
        return np.concatenate([whole, reduced], axis=1)


class _FittedTrees(NamedTuple):
    columns: _MatrixMaker
    trees: Any  # lightgbm.Booster
    manifest: files.RankerManifest


class LightGBMRanker:
    """A Ranker of gradient-boosted trees. The same seed, data and number of threads give the same scores."""

    def __init__(self, predictor: str, row: RankerRow, seed: int = 0, num_threads: int = 1) -> None:
        """Raise ConfigError if TREE_COLUMNS has no such predictor and row."""
        if (predictor, row) not in TREE_COLUMNS:
            known = ", ".join(f"{name} {row}" for name, row in TREE_COLUMNS)
            raise ConfigError(f"no LightGBM ranker {predictor!r} {row!r}; known are: {known}")
        self.predictor, self.row, self.seed, self.num_threads = predictor, row, seed, num_threads
        self._blocks = TREE_COLUMNS[predictor, row]
        self._fitted: _FittedTrees | None = None

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Errors as `check_training_parts` and `check_columns_read`.
        """
        check_columns_read(self.predictor, self._blocks.whole, features)
        check_training_parts(features, labels, valid_features, valid_labels, self.row)
        features, valid_features = visible(features, self.row), visible(valid_features, self.row)
        columns = _MatrixMaker.fit(self._blocks, features)
        valid_matrix = columns.matrix(valid_features)
        train = lightgbm.Dataset(columns.matrix(features), labels.astype(np.float32))
        trees = lightgbm.train(
            {**PARAMETERS, "seed": self.seed, "num_threads": self.num_threads},
            train,
            num_boost_round=N_ROUNDS,
            valid_sets=[lightgbm.Dataset(valid_matrix, valid_labels.astype(np.float32), reference=train)],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        trees = lightgbm.Booster(model_str=trees.model_to_string(num_iteration=trees.best_iteration))
        raw_scores = np.asarray(trees.predict(valid_matrix, raw_score=True, num_threads=self.num_threads))
        calibration = fit_calibration(raw_scores, valid_labels)
        manifest = files.new_manifest(self.predictor, self.row, self.seed, features, calibration)
        self._fitted = _FittedTrees(columns, trees, manifest)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1). Errors as `check_scored`."""
        return self._require_fitted().manifest.probabilities(self.raw_score(features))

    def raw_score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 sums of the leaves, before calibration. Errors as `score`."""
        fitted = self._require_fitted()
        check_scored(features, self.row, fitted.manifest.trained_on)
        scores = [np.zeros(0)]
        for part in parts(visible(features, self.row)):
            matrix = fitted.columns.matrix(part)
            scores.append(fitted.trees.predict(matrix, raw_score=True, num_threads=self.num_threads))
        return np.concatenate(scores)

    def save(self, folder: Path) -> None:
        """Write trees (LightGBM's text), columns (safetensors) and manifest (JSON) to `folder`; make the folder."""
        fitted = self._require_fitted()
        files.make_folder(folder, (TREES, ARRAYS))
        (folder / TREES).write_text(fitted.trees.model_to_string(), encoding="utf-8")
        files.write_arrays(folder / ARRAYS, fitted.columns.arrays())
        files.write_manifest(folder, fitted.manifest, (TREES, ARRAYS))

    @classmethod
    def load(cls, folder: Path, num_threads: int = 1) -> LightGBMRanker:
        """Load the ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = files.read_manifest(folder, files.RankerManifest, (TREES, ARRAYS))
        if (manifest.predictor, manifest.row) not in TREE_COLUMNS:
            raise CheckpointError(f"{folder} holds a {manifest.predictor!r} ranker, not a LightGBM one")
        ranker = cls(manifest.predictor, manifest.row, manifest.seed, num_threads)
        columns = _MatrixMaker.read(folder / ARRAYS, ranker._blocks, manifest.dimension, len(manifest.columns))
        try:
            trees = lightgbm.Booster(model_str=(folder / TREES).read_text(encoding="utf-8"))
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{folder / TREES} is not a LightGBM text model: {error}") from error
        ranker._fitted = _FittedTrees(columns, trees, manifest)
        return ranker

    def _require_fitted(self) -> _FittedTrees:
        if self._fitted is None:
            raise GirlError(f"this {self.predictor} {self.row} ranker is not trained yet; call fit() or load()")
        return self._fitted


def _n_components(blocks: TreeColumns, dimension: int) -> int:
    return min(N_COMPONENTS, dimension) if blocks.reduced else 0


def _reduce(pca: PCA, features: PairFeatures) -> PairFeatures:
    """Return the same pairs with k components for each vector; a base row has no generated vectors to project."""
    generated = features.generated_jd
    reduced = pca.project(generated) if generated.shape[1] else generated
    return features._replace(cv=pca.project(features.cv), jd=pca.project(features.jd), generated_jd=reduced)
