"""Generated-JD features as plain columns, for rankers of any other kind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.errors import ConfigError, ShapeError
from girl_features.integrations.rankers import ranker_files as files
from girl_features.integrations.rankers.pair_inputs import TrainedOn, check_features, check_scored
from girl_features.ranker import PairFeatures
from girl_features.schema import (
    GIRL_COS_CV_GENERATED_JD,
    GIRL_COS_CV_JD,
    GIRL_COS_GENERATED_JD_JD,
    GIRL_HAS_GENERATED_JD,
    GIRL_TIER,
)
from girl_features.vectors.projection import PCA, fit_pca
from girl_features.vectors.similarity import cosine

ARRAYS = "reduction.safetensors"


class PlainReduction(NamedTuple):
    """Projection of the generated-JD vectors of one contract to k columns."""

    pca: PCA
    contract: str  # fingerprint of the FeatureContract it was fitted on

    def save(self, folder: Path) -> None:
        """Write the arrays (safetensors) and manifest (JSON) to `folder`; make the folder."""
        files.make_folder(folder, (ARRAYS,))
        files.write_arrays(folder / ARRAYS, {"mean": self.pca.mean, "components": self.pca.components})
        n_components, dimension = self.pca.components.shape
        manifest = files.ReductionManifest(
            contract=self.contract, dimension=dimension, n_components=n_components, sha256={}
        )
        files.write_manifest(folder, manifest, (ARRAYS,))

    @classmethod
    def load(cls, folder: Path) -> PlainReduction:
        """Load the reduction that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = files.read_manifest(folder, files.ReductionManifest, (ARRAYS,))
        shapes = {"mean": (manifest.dimension,), "components": (manifest.n_components, manifest.dimension)}
        arrays = files.read_arrays(folder / ARRAYS, shapes)
        return cls(PCA(arrays["mean"], arrays["components"]), manifest.contract)


def fit_reduction(features: PairFeatures, n_components: int) -> PlainReduction:
    """Fit principal components, at most as many as dimensions, of the generated-JD vectors that `features` have.

    Fit on the training part only, or the test part leaks.

    Raises:
        ConfigError: `n_components` is not positive.
        ShapeError: no pair has a generated JD, or arrays do not line up.
        InvalidVectorError: a NaN, infinite or all-zero vector.
    """
    if n_components < 1:
        raise ConfigError(f"n_components should be at least 1, found {n_components}")
    check_features(features, "enhanced")
    vectors = features.generated_jd[features.has_generated_jd]
    if not len(vectors):
        raise ShapeError(
            f"none of {features.n_pairs} pairs has a generated JD; run `girl materialize`, or join later decisions"
        )
    return PlainReduction(fit_pca(vectors, n_components), features.contract)


def plain_columns(features: PairFeatures, reduction: PlainReduction) -> pl.DataFrame:
    """Return one row per pair, in order, with columns that any ranker can read.

    The columns are three cosines, `girl_generated_jd_pca_00` and following (all Float64), `girl_has_generated_jd`
    (Boolean) and `girl_tier` (the Tier as Int8, 0 is best). If a pair has no generated JD, the columns that are
    computed from it are null.

    Raises:
        ContractMismatchError: the features are of another contract than the reduction.
        InvalidVectorError: a NaN, infinite, all-zero or wrong-dimension vector; the message gives its row.
        ShapeError: arrays do not line up.
    """
    dimension = reduction.pca.components.shape[1]
    check_scored(features, "enhanced", TrainedOn(reduction.contract, dimension, features.column_names))
    has_generated = features.has_generated_jd
    components = reduction.pca.project(features.generated_jd).astype(np.float64)
    of_generated = {
        GIRL_COS_GENERATED_JD_JD: cosine(features.generated_jd, features.jd),
        GIRL_COS_CV_GENERATED_JD: cosine(features.cv, features.generated_jd),
        **{f"girl_generated_jd_pca_{i:02d}": column for i, column in enumerate(components.T)},
    }
    return pl.DataFrame(
        [
            pl.Series(GIRL_COS_CV_JD, cosine(features.cv, features.jd), pl.Float64),
            *(
                pl.Series(name, np.where(has_generated, values, np.nan), pl.Float64).fill_nan(None)
                for name, values in of_generated.items()
            ),
            pl.Series(GIRL_HAS_GENERATED_JD, has_generated, pl.Boolean),
            pl.Series(GIRL_TIER, features.tier, pl.Int8),
        ]
    )


def spread_columns(columns: pl.DataFrame, rows: np.ndarray, n: int) -> pl.DataFrame:
    """Return `columns` as a frame of n rows: row i of it at place `rows[i]`, and null at all other places."""
    places = pl.Series([None] * n, dtype=pl.UInt32).scatter(rows, np.arange(len(rows), dtype=np.uint32))
    return columns.select(pl.all().gather(places)) if columns.height else columns.clear(n)
