"""k generated JDs a CV as one feature: their mean, the nearest to the job, an attention over them, their spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.reference import cosine, platt_scale
from girl_features.lab.experiment.config import Pooled
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier

TEMPERATURES = (0.02, 0.05, 0.1, 0.3, 1.0)  # of the attention; near 0 it is `max`, far above 1 it is `mean`


def pool_samples(parts: RankingParts, texts: dict[str, np.ndarray], table: VectorTable, wanted: Pooled) -> RankingParts:
    """j' from the first k generated JDs of each pair's CV; the tier says where there is none.

    `max` and `attention` look at the job: j' is then of the pair, not of the CV, and has to be made when a pair is
    scored, from k stored vectors. `dispersion` is `mean`, whose length says how alike the k are: see SpreadRanker.

    Args:
        texts: part -> (n,) object array of tuples of texts.
        table: the vector of each of those texts.
    """
    stacked = {name: _stack(texts[name], table, wanted.k) for name in texts}  # part -> (n, k, d), (n, k)
    temperature = _best_temperature(parts.train, *stacked["train"]) if wanted.pooling == "attention" else 0.0
    pooled = []
    for name, part in zip(RankingParts._fields, parts, strict=True):
        vectors, present = stacked[name]
        weights = _weights(wanted.pooling, vectors, present, part.features.jd, temperature)
        generated = np.einsum("nk,nkd->nd", weights, vectors).astype(np.float32)
        tier = np.where(present.any(axis=1), Tier.GENERATED, Tier.PRIOR).astype(np.int8)
        pooled.append(part._replace(features=part.features._replace(generated_jd=generated, tier=tier)))
    return RankingParts(*pooled)


class SpreadRanker:
    """A Ranker that weighs another one's score by how alike the k generated JDs of the CV are.

    The mean of k unit vectors has the squared length of their mean cosine, each with itself included. Probability =
    logistic(a + b * logit + c * length + d * logit * length), fitted on the valid part.
    """

    def __init__(self, ranker: Ranker, fit_logistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._ranker, self._fit_logistic = ranker, fit_logistic
        self._weights = np.array([1.0, 0.0, 0.0, 0.0])

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train the inner ranker, then the four numbers on the valid part. Errors as the inner ranker."""
        self._ranker.fit(features, labels, valid_features, valid_labels)
        self._weights = self._fit_logistic(self._columns(valid_features), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1). Errors as the inner ranker."""
        logits = self._columns(features) @ self._weights[:-1] + self._weights[-1]
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))

    def _columns(self, features: PairFeatures) -> np.ndarray:
        probability = self._ranker.score(features)
        logit = np.log(probability / (1 - probability))
        length = np.where(features.has_generated_jd, np.linalg.norm(features.generated_jd, axis=1), 1.0)
        return np.column_stack([logit, length, logit * length])


def _stack(texts: np.ndarray, table: VectorTable, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k, d) float32 vectors and (n, k) bool: which of the k there are."""
    present = np.zeros((len(texts), k), bool)
    vectors = np.zeros((len(texts), k, table.vectors.shape[1]), np.float32)
    for row, own in enumerate(texts):
        own = own[:k]
        present[row, : len(own)] = True
        if own:
            vectors[row, : len(own)] = table.of(own)
    return vectors, present


def _weights(pooling: str, vectors: np.ndarray, present: np.ndarray, jd: np.ndarray, temperature: float) -> np.ndarray:
    """(n, k) weights of the samples, each row summing to 1, or to 0 where there is none."""
    if pooling in ("mean", "dispersion"):
        weights = present.astype(np.float64)
    else:
        similar = np.einsum("nkd,nd->nk", vectors, jd).astype(np.float64)
        similar = np.where(present, similar, -np.inf)
        best = np.where(present.any(axis=1), similar.max(axis=1), 0.0)[:, None]
        scale = 1e-6 if pooling == "max" else temperature
        weights = np.where(present, np.exp((similar - best) / scale), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0))


def _best_temperature(train: LabelledPairs, vectors: np.ndarray, present: np.ndarray) -> float:
    """Of TEMPERATURES, the one whose pooled cosine to the job tells the training labels best, by log loss."""
    rows = np.flatnonzero(present.any(axis=1))
    if not len(rows) or train.labels[rows].all() or not train.labels[rows].any():
        return TEMPERATURES[-1]
    jd, labels = train.features.jd[rows], train.labels[rows]

    def loss(temperature: float) -> float:
        weights = _weights("attention", vectors[rows], present[rows], jd, temperature)
        similar = cosine(np.einsum("nk,nkd->nd", weights, vectors[rows]), jd)
        slope, intercept = platt_scale(similar, labels)
        logits = slope * similar + intercept
        return float((np.logaddexp(0, logits) - labels * logits).mean())

    return min(TEMPERATURES, key=loss)
