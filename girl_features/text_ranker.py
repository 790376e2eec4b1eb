"""Rankers that read ids and texts instead of vectors, and what they are given."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from girl_features.errors import ShapeError


class PairTexts(NamedTuple):
    """Who and what n (job seeker, job) pairs are about, one row a pair. Equal texts may share one string."""

    job_seeker_ids: np.ndarray  # (n,) str
    job_ids: np.ndarray  # (n,) str
    cvs: np.ndarray  # (n,) object: the CV known before the decision, a str
    jds: np.ndarray  # (n,) object: str
    generated_jds: np.ndarray  # (n,) object: the CV's generated JDs, a tuple of str, empty where there is none

    @property
    def n_pairs(self) -> int:
        """Number of rows."""
        return len(self.cvs)

    def take(self, rows: np.ndarray) -> PairTexts:
        """The given rows (index or mask), in that order."""
        return PairTexts(*(column[rows] for column in self))


class TextRanker(Protocol):
    """Scores (job seeker, job) pairs with the probability of a match, from their ids and texts."""

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train on `texts` and (n,) bool `labels`; early stopping and calibration on the valid part.

        Raises:
            ShapeError: a part is empty, of one class, or does not line up with its labels.
        """
        ...

    def score(self, texts: PairTexts) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1).

        Raises:
            GirlError: not trained yet.
        """
        ...


def check_text_parts(texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
    """Raise ShapeError unless both parts have pairs, line up with their (n,) labels and hold both classes."""
    for name, part, own in (("training", texts, labels), ("valid", valid_texts, valid_labels)):
        if part.n_pairs == 0:
            raise ShapeError(f"the {name} part has no pairs; widen its window (`windows:` in girl.yaml)")
        lengths = {len(column) for column in part} | {len(own)}
        if len(lengths) > 1:
            raise ShapeError(f"{name} part: columns and labels have {sorted(lengths)} rows; wanted one of each a pair")
        if own.all() or not own.any():
            raise ShapeError(f"{name} part: all {len(own)} labels are {bool(own[0])}; a ranker needs both classes")
