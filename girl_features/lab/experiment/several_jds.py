"""One feature from k generated JDs of a CV: mean, nearest to the job, attention, or mean with spread."""

from __future__ import annotations

import numpy as np

from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.lab.experiment.row_names import JDPooling
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures, Ranker
from girl_features.schema import Tier
from girl_features.vectors.regression import fit_logistic, log_loss_of_logits, platt_scale
from girl_features.vectors.similarity import cosine

TEMPERATURES = (0.02, 0.05, 0.1, 0.3, 1.0)  # of the attention; near 0 it equals `max`, far above 1 `mean`


def pool_generated_jds(
    parts: RankingParts, texts: dict[str, np.ndarray], table: VectorTable, wanted: JDPooling
) -> RankingParts:
    """Return the pairs with j' pooled from the first k generated JDs of the CV; the tier is PRIOR if there is none.

    With `max` and `attention`, j' depends on the job too, so it belongs to the pair, not to the CV, and must be pooled
    from k stored vectors when a pair is scored. `dispersion` pools as `mean` does: the length of the mean tells how
    similar the k vectors are, which SpreadRanker uses. `texts` are part -> (n,) tuples of generated JDs.
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
    """A Ranker that weighs another ranker's score by the similarity of the k generated JDs of the CV.

    The squared length of the mean of k unit vectors is their mean cosine, pairs of a vector with itself included.
    Probability = logistic(a + b * logit + c * length + d * logit * length), fitted on the valid part.
    """

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self._weights = np.array([1.0, 0.0, 0.0, 0.0])

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train the inner ranker, then fit a, b, c and d on the valid part. Raises as the inner ranker does."""
        self._ranker.fit(features, labels, valid_features, valid_labels)
        self._weights = fit_logistic(self._columns(valid_features), valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1). Raises as the inner ranker does."""
        logits = self._columns(features) @ self._weights[:-1] + self._weights[-1]
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))

    def _columns(self, features: PairFeatures) -> np.ndarray:
        probability = self._ranker.score(features)
        logit = np.log(probability / (1 - probability))
        length = np.where(features.has_generated_jd, np.linalg.norm(features.generated_jd, axis=1), 1.0)
        return np.column_stack([logit, length, logit * length])


def _stack(texts: np.ndarray, table: VectorTable, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, k, d) float32 vectors, and (n, k) bool: True where there is a vector."""
    present = np.arange(k) < np.array([len(jds) for jds in texts])[:, None]
    vectors = np.zeros((len(texts), k, table.vectors.shape[1]), np.float32)
    vectors[present] = table.of([jd for jds in texts for jd in jds[:k]])
    return vectors, present


def _weights(pooling: str, vectors: np.ndarray, present: np.ndarray, jd: np.ndarray, temperature: float) -> np.ndarray:
    """Return (n, k) weights of the JDs. Each row sums to 1, or to 0 where there is no JD."""
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
    """Return the one of TEMPERATURES whose pooled cosine to the job predicts the training labels best, by log loss."""
    rows = np.flatnonzero(present.any(axis=1))
    if not len(rows) or train.labels[rows].all() or not train.labels[rows].any():
        return TEMPERATURES[-1]
    jd, labels = train.features.jd[rows], train.labels[rows]

    def loss(temperature: float) -> float:
        weights = _weights("attention", vectors[rows], present[rows], jd, temperature)
        similar = cosine(np.einsum("nk,nkd->nd", weights, vectors[rows]), jd)
        slope, intercept = platt_scale(similar, labels)
        return log_loss_of_logits(slope * similar + intercept, labels)

    return min(TEMPERATURES, key=loss)
