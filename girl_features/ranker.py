"""The two interfaces of rankers, and what they score: `Ranker` reads vectors, `TextRanker` reads ids and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from girl_features.errors import ShapeError
from girl_features.schema import Tier


class PairColumns(NamedTuple):
    """Further numbers of n pairs, beside the vectors. A ranker that was trained with them needs the same names."""

    names: tuple[str, ...]
    values: np.ndarray  # (n, k) float32, one column for each name

    def only(self, names: Sequence[str]) -> PairColumns:
        """Return the columns `names`, which must be there, in that order."""
        return PairColumns(tuple(names), self.values[:, [self.names.index(name) for name in names]])


class PairFeatures(NamedTuple):
    """Features of n (job seeker, job) pairs, one row per pair."""

    cv: np.ndarray  # (n, d) float32
    jd: np.ndarray  # (n, d) float32
    generated_jd: np.ndarray  # (n, d) float32, zeros where there is none
    tier: np.ndarray  # (n,) int8, values of Tier
    contract: str  # fingerprint of the FeatureContract
    columns: PairColumns | None = None

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the further columns; empty without any."""
        return self.columns.names if self.columns is not None else ()

    @property
    def has_generated_jd(self) -> np.ndarray:
        """(n,) bool: a generated-JD vector exists."""
        return np.asarray(self.tier != Tier.PRIOR)

    @property
    def n_pairs(self) -> int:
        """Number of rows."""
        return int(self.cv.shape[0])

    def take(self, rows: np.ndarray) -> PairFeatures:
        """Return the given rows (indices or a mask), in that order."""
        columns = self.columns
        if columns is not None:
            columns = columns._replace(values=columns.values[rows])
        vectors = (self.cv[rows], self.jd[rows], self.generated_jd[rows])
        return PairFeatures(*vectors, self.tier[rows], self.contract, columns)


class Ranker(Protocol):
    """Scores (job seeker, job) pairs with the probability of a match."""

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Raises:
            ShapeError: the numbers of rows and labels differ.
        """
        ...

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match.

        Raises:
            ContractMismatchError: the ranker was trained on features of another contract.
        """
        ...


class PairTexts(NamedTuple):
    """Ids and texts of n (job seeker, job) pairs, one row per pair. Equal texts may share one string object."""

    job_seeker_ids: np.ndarray  # (n,) str
    job_ids: np.ndarray  # (n,) str
    cvs: np.ndarray  # (n,) object: the CV known before the decision, a str
    jds: np.ndarray  # (n,) object: a str each
    generated_jds: np.ndarray  # (n,) object: the generated JDs of the CV, a tuple of str; empty if there are none

    @property
    def n_pairs(self) -> int:
        """Number of rows."""
        return len(self.cvs)

    def take(self, rows: np.ndarray) -> PairTexts:
        """Return the given rows (indices or a mask), in that order."""
        return PairTexts(*(column[rows] for column in self))


class TextRanker(Protocol):
    """Scores (job seeker, job) pairs with the probability of a match, from their ids and texts."""

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train on `texts` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Raises:
            ShapeError: a part is empty, has labels of one class only, or has another number of labels than of pairs.
        """
        ...

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1).

        Raises:
            GirlError: the ranker has not been trained.
        """
        ...


def check_labels(pairs: PairFeatures | PairTexts, labels: np.ndarray) -> None:
    """Raise ShapeError unless `labels` is (n,) for the n pairs and holds both classes."""
    if labels.shape != (pairs.n_pairs,):
        raise ShapeError(f"labels have shape {labels.shape}, but there are {pairs.n_pairs} pairs")
    if labels.min() == labels.max():
        raise ShapeError(f"all {pairs.n_pairs} labels are {bool(labels[0])}; a ranker needs both classes")


def check_part(name: str, pairs: PairFeatures | PairTexts, labels: np.ndarray) -> None:
    """Raise ShapeError unless the part `name` has pairs, one label per pair, and labels of both classes."""
    if pairs.n_pairs == 0:
        raise ShapeError(f"the {name} part has no pairs; widen its window (`windows:` in girl.yaml)")
    try:
        check_labels(pairs, labels)
    except ShapeError as error:
        raise ShapeError(f"{name} part: {error}") from error


def check_text_parts(texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
    """Raise ShapeError unless both parts have pairs, one label per pair, and labels of both classes."""
    for name, part, part_labels in (("training", texts, labels), ("valid", valid_texts, valid_labels)):
        lengths = {len(column) for column in part} | {len(part_labels)}
        if len(lengths) > 1:
            raise ShapeError(f"{name} part: columns and labels have {sorted(lengths)} rows; wanted one each per pair")
        check_part(name, part, part_labels)
