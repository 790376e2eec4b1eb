"""PairFeatures -> the numeric columns a ranker reads: named blocks of columns, standardised, gaps filled.

A base ranker never sees a generated JD: `visible` removes it before any other step. For an enhanced ranker, a pair
without a generated JD (Tier.PRIOR) gets the training mean in every column that is computed from it; see fallback.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

import numpy as np

from girl_features.errors import ContractMismatchError, InvalidVectorError, ShapeError
from girl_features.ranker import PairFeatures, check_part
from girl_features.schema import Tier
from girl_features.vectors.similarity import cosine

RankerRow = Literal["base", "enhanced"]  # the row of the results table, which says what a ranker may look at

COSINE_BLOCKS = ("cos_cv_jd", "cos_generated_jd_jd", "cos_cv_generated_jd", "tier")

MAX_ENTRY = 1e6  # encoders give about 1; float32 products overflow only far above this
MAX_STANDARD_DEVIATIONS = 10.0  # standardised columns are clipped here, so that no score becomes extreme
ROWS_AT_ONCE = 4096  # bounds the memory of the columns
_LOWER_TIERS = np.array([tier for tier in Tier if tier != Tier.GENERATED], np.int8)


class _Block(NamedTuple):
    values: Callable[[PairFeatures], np.ndarray]  # (n, d), or (n, width)
    needs_generated_jd: bool  # without meaning for a pair that has no generated JD
    width: int | Literal["dimension", "columns"]  # a number, that of the vectors, or that of the further columns


_BLOCKS: dict[str, _Block] = {
    "cv": _Block(lambda f: f.cv, False, "dimension"),
    "jd": _Block(lambda f: f.jd, False, "dimension"),
    "generated_jd": _Block(lambda f: f.generated_jd, True, "dimension"),
    "cv_times_jd": _Block(lambda f: f.cv * f.jd, False, "dimension"),
    "generated_jd_times_jd": _Block(lambda f: f.generated_jd * f.jd, True, "dimension"),
    "cos_cv_jd": _Block(lambda f: cosine(f.cv, f.jd)[:, None], False, 1),
    "cos_generated_jd_jd": _Block(lambda f: cosine(f.generated_jd, f.jd)[:, None], True, 1),
    "cos_cv_generated_jd": _Block(lambda f: cosine(f.cv, f.generated_jd)[:, None], True, 1),
    "columns": _Block(lambda f: _further_columns(f), False, "columns"),
    "tier": _Block(lambda f: f.tier[:, None] == _LOWER_TIERS, False, len(_LOWER_TIERS)),  # all 0: GENERATED
}


class TrainedOn(NamedTuple):
    """Kind of the pairs that a ranker was trained on, which the pairs it scores must have too."""

    contract: str
    dimension: int  # of the vectors
    columns: tuple[str, ...]  # names of the further columns

    @classmethod
    def of(cls, features: PairFeatures) -> TrainedOn:
        """Return the kind of these pairs."""
        return cls(features.contract, features.cv.shape[1], features.column_names)


class ColumnScaler(NamedTuple):
    """Training mean and inverse standard deviation of p columns."""

    mean: np.ndarray  # (p,) float32
    inverse_std: np.ndarray  # (p,) float32, 0 for a column that is constant in the training part

    @staticmethod
    def shapes(name: str, n_columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of `arrays`."""
        return {f"{name}.mean": (n_columns,), f"{name}.inverse_std": (n_columns,)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], name: str) -> ColumnScaler:
        """Return the scaler that `arrays` wrote under `name`."""
        return cls(arrays[f"{name}.mean"], arrays[f"{name}.inverse_std"])

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays by their names in a ranker's file."""
        return {f"{name}.mean": self.mean, f"{name}.inverse_std": self.inverse_std}


def visible(features: PairFeatures, row: RankerRow) -> PairFeatures:
    """Return what `row` may look at: for `base`, (n, 0) generated vectors and all tiers 0."""
    if row == "enhanced":
        return features
    n = features.n_pairs
    return features._replace(generated_jd=np.zeros((n, 0), np.float32), tier=np.zeros(n, np.int8))


def check_features(features: PairFeatures, row: RankerRow) -> None:
    """Check the arrays that `row` reads.

    Raises:
        ShapeError: the arrays do not line up.
        InvalidVectorError: a vector is NaN, infinite, too large or all zero, or a further column holds such a number;
            the message gives the row.
    """
    _check_further_columns(features)
    shape = features.cv.shape
    if len(shape) != 2 or features.jd.shape != shape:
        raise ShapeError(f"cv vectors are {shape}, jd vectors {features.jd.shape}; wanted (n, d) for both")
    every_pair = np.ones(len(features.cv), bool)
    _check_vectors("cv", features.cv, every_pair)
    _check_vectors("jd", features.jd, every_pair)
    if row == "base":
        return
    if features.generated_jd.shape != shape or features.tier.shape != shape[:1]:
        raise ShapeError(
            f"generated_jd vectors are {features.generated_jd.shape} and tiers {features.tier.shape}, "
            f"but cv vectors {shape}"
        )
    _check_vectors("generated_jd", features.generated_jd, features.has_generated_jd)


def check_training_parts(
    features: PairFeatures, labels: np.ndarray, valid: PairFeatures, valid_labels: np.ndarray, row: RankerRow
) -> None:
    """Check both parts that a ranker is trained on.

    Raises:
        ShapeError: a part is empty, has one class only, or its arrays do not line up.
        InvalidVectorError: a bad vector, or parts of different dimensions.
        ContractMismatchError: the parts are of different contracts.
    """
    for name, part, part_labels in (("training", features, labels), ("valid", valid, valid_labels)):
        check_part(name, part, part_labels)
        check_features(part, row)
    check_scored(valid, row, TrainedOn.of(features))


def check_columns_read(predictor: str, blocks: Collection[str], features: PairFeatures) -> None:
    """Raise ShapeError if the pairs have further columns that a ranker of these blocks would not read."""
    if features.columns is not None and "columns" not in blocks:
        raise ShapeError(
            f"{predictor!r} reads the vectors alone, but the pairs have the columns {', '.join(features.column_names)} "
            f"too; use mlp, dot or lightgbm"
        )


def check_scored(features: PairFeatures, row: RankerRow, trained_on: TrainedOn) -> None:
    """Check the arrays that `row` reads, and that they are of the kind that a ranker was trained on.

    A base ranker needs the same contract too. Its scores would not change with another generator, but a fingerprint
    does not show which part of a contract differs, and with another encoder the scores would be meaningless.

    Raises:
        ShapeError: the arrays do not line up, or the further columns have other names.
        InvalidVectorError: as `check_features`, or another dimension.
        ContractMismatchError: another contract.
    """
    check_features(features, row)
    if features.contract != trained_on.contract:
        raise ContractMismatchError(features.contract, trained_on.contract)
    if features.cv.shape[1] != trained_on.dimension:
        raise InvalidVectorError(
            f"vectors of {features.cv.shape[1]} dimensions in contract {trained_on.contract!r}, whose ranker was "
            f"trained on {trained_on.dimension}; materialize them again"
        )
    if features.column_names != trained_on.columns:
        raise ShapeError(
            f"the pairs have the columns {', '.join(features.column_names) or 'none'} beside their vectors, but the "
            f"ranker was trained with {', '.join(trained_on.columns) or 'none'}; give it these, in this order"
        )


def columns(features: PairFeatures, blocks: tuple[str, ...]) -> np.ndarray:
    """Return the named blocks side by side, (n, p) float32.

    Columns that need a generated JD have no meaning in rows without one.
    """
    arrays = [_BLOCKS[name].values(features) for name in blocks]
    return np.concatenate([np.zeros((features.n_pairs, 0)), *arrays], axis=1).astype(np.float32)


def columns_width(blocks: tuple[str, ...], dimension: int, n_columns: int) -> int:
    """Return p, the number of columns that `blocks` make of d-dimensional vectors and so many further columns."""
    return len(_needs_generated_jd(blocks, dimension, n_columns))


def fit_scaler(features: PairFeatures, blocks: tuple[str, ...]) -> ColumnScaler:
    """Fit mean and standard deviation of each column; columns that need a generated JD use the pairs that have one."""
    needs_generated = _needs_generated_jd(blocks, features.cv.shape[1], len(features.column_names))
    total, squares, n = (np.zeros(len(needs_generated)) for _ in range(3))
    for part in parts(features):
        values = columns(part, blocks).astype(np.float64)
        known = ~needs_generated | part.has_generated_jd[:, None]  # (n, p)
        total += np.where(known, values, 0).sum(axis=0)
        squares += np.where(known, values**2, 0).sum(axis=0)
        n += known.sum(axis=0)
    mean = total / np.maximum(n, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(n, 1) - mean**2, 0))
    varies = std > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    inverse_std = np.divide(1, std, out=np.zeros_like(std), where=varies)
    return ColumnScaler(mean.astype(np.float32), inverse_std.astype(np.float32))


def scaled_columns(features: PairFeatures, blocks: tuple[str, ...], scaler: ColumnScaler) -> np.ndarray:
    """Return (n, p) float32 standardised columns, with 0 (the training mean) where a needed generated JD is absent."""
    scaled = (columns(features, blocks) - scaler.mean) * scaler.inverse_std
    needs_generated = _needs_generated_jd(blocks, features.cv.shape[1], len(features.column_names))
    scaled[~features.has_generated_jd[:, None] & needs_generated] = 0
    return np.asarray(np.clip(scaled, -MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS))


def _needs_generated_jd(blocks: tuple[str, ...], dimension: int, n_columns: int) -> np.ndarray:
    """Return (p,) bool: the columns of `blocks` that are computed from the generated JD."""
    chosen = [_BLOCKS[name] for name in blocks]
    counts = {"dimension": dimension, "columns": n_columns}
    widths = [block.width if isinstance(block.width, int) else counts[block.width] for block in chosen]
    return np.repeat(np.array([block.needs_generated_jd for block in chosen], bool), widths)


def parts(features: PairFeatures) -> Iterator[PairFeatures]:
    """Cut n pairs into parts of at most ROWS_AT_ONCE."""
    for start in range(0, features.n_pairs, ROWS_AT_ONCE):
        yield features.take(np.arange(start, min(start + ROWS_AT_ONCE, features.n_pairs)))


def _further_columns(features: PairFeatures) -> np.ndarray:
    if features.columns is None:
        return np.zeros((features.n_pairs, 0), np.float32)
    return features.columns.values


def _check_further_columns(features: PairFeatures) -> None:
    if features.columns is None:
        return
    names, values = features.columns
    if values.shape != (features.n_pairs, len(names)) or len(set(names)) < len(names):
        raise ShapeError(
            f"the columns {', '.join(names)} of {features.n_pairs} pairs have shape {values.shape}; wanted one column "
            f"for each of these names, which should differ"
        )
    bad = ~(np.abs(values) <= MAX_ENTRY)  # True for NaN too
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise InvalidVectorError(
            f"{int(bad.sum())} bad numbers in the columns beside the vectors: the first, {names[column]!r} of row "
            f"{row}, is {values[row, column]}; wanted a number of at most {MAX_ENTRY:g}"
        )


def _check_vectors(name: str, vectors: np.ndarray, is_checked: np.ndarray) -> None:
    if vectors.shape[1] == 0:
        raise ShapeError(f"{name} vectors have no dimensions")
    largest = np.abs(vectors).max(axis=1)  # NaN where any entry is NaN
    bad = is_checked & ~((largest > 0) & (largest <= MAX_ENTRY))
    if bad.any():
        row = int(bad.argmax())
        problem = "all zero" if largest[row] == 0 else f"NaN, infinite or too large (largest entry {largest[row]:g})"
        raise InvalidVectorError(
            f"{int(bad.sum())} bad {name} vectors: the first, of row {row}, is {problem}; "
            f"leave those pairs out or materialize them again"
        )
