"""Small working implementations of the protocols, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from girl_features.contract import EncoderContract, FeatureContract, SamplingContract
from girl_features.ranker import PairFeatures, check_labels
from girl_features.schema import Encoded, GeneratedText, Tier

if TYPE_CHECKING:
    from girl_features.lookup import JobVectors, SeekerVectors  # imports Feast, which takes seconds


LOOP = "and so on and so forth, " * 5  # a JD that the quality gate refuses, because it repeats itself


class HashingEncoder:
    """A bag of hashed words: texts that share words have similar vectors."""

    def __init__(self, dimension: int = 8, max_words: int = 256) -> None:
        self.contract = EncoderContract(
            name="hashing",
            weights_sha256="0" * 64,
            max_tokens=max_words,
            pooling="mean",
            normalized=True,
            dtype="float32",
            dimension=dimension,
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        vectors = np.zeros((len(texts), self.contract.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.split()[: self.contract.max_tokens] or [""]:
                digest = hashlib.sha256(word.lower().encode()).digest()
                vectors[row, digest[0] % self.contract.dimension] += 1 if digest[1] % 2 else -1
            if not vectors[row].any():
                vectors[row, 0] = 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        long = np.array([len(text.split()) > self.contract.max_tokens for text in texts], bool)
        return Encoded(vectors, long)


class TemplateGenerator:
    """Writes a JD from the CV's words and the seed; a CV in `script` gets its texts from there first, one per call."""

    def __init__(self, script: dict[str, list[str]] | None = None) -> None:
        self.script = {cv: list(texts) for cv, texts in (script or {}).items()}
        self.calls: list[tuple[str, int]] = []

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        return [[self._write(cv, seed) for seed in cv_seeds] for cv, cv_seeds in zip(cvs, seeds, strict=True)]

    def _write(self, cv: str, seed: int) -> GeneratedText:
        self.calls.append((cv, seed))
        scripted = self.script.get(cv)
        text = scripted.pop(0) if scripted else f"wanted: somebody with {cv} (draw {seed})"
        return GeneratedText(text, "stop", len(cv.split()), len(text.split()), False)


def feature_contract(
    trained_until: str = "2020-01-01T00:00:00+00:00", n: int = 1, dimension: int = 8, seed: int = 0
) -> FeatureContract:
    """Return a contract of TemplateGenerator and HashingEncoder."""
    return FeatureContract.model_validate(
        {
            "generator": "template",
            "weights_sha256": "1" * 64,
            "adapter_sha256": None,
            "trained_until": trained_until,
            "prompt_version": "tiny-1",
            "max_cv_tokens": 64,
            "sampling": SamplingContract(n=n, temperature=0.7, top_p=0.95, max_new_tokens=32, seed=seed).model_dump(),
            "encoder": HashingEncoder(dimension).contract.model_dump(),
        }
    )


class ColumnRanker:
    """A Ranker that scores by the logistic function of the first entry of j' (`enhanced`) or of c (`base`)."""

    def __init__(self, form: str, noise: float = 0.0, seed: int = 0) -> None:
        self._form, self._noise, self._rng = form, noise, np.random.default_rng(seed)

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        check_labels(features, labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        column = (features.generated_jd if self._form == "enhanced" else features.cv)[:, 0].astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-column - self._rng.normal(0, self._noise, len(column)))))


class VectorClient:
    """A FeatureClient over two dictionaries of vectors. A seeker's vector is both the CV's and the generated JD's.

    `wait` is called before each lookup of seekers; a test can make it slow or let it fail.
    """

    def __init__(
        self,
        seekers: dict[str, list[float]],
        jobs: dict[str, list[float]],
        contract: str,
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        self.contract, self.deadline_ms, self.store_state = contract, 50.0, "closed"
        self.seekers, self.vectors, self.wait, self.is_closed = seekers, jobs, wait, False

    def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        from girl_features.lookup import SeekerVectors

        self.wait()
        known = np.array([name in self.seekers for name in ids])
        vectors = np.array([self.seekers.get(name, [0.0, 0.0]) for name in ids], np.float32).reshape(-1, 2)
        tiers = np.where(known, Tier.GENERATED, Tier.PRIOR).astype(np.int8)
        if cvs is not None:  # this client's student maps every CV to the second axis
            by_student = ~known & np.array([bool(cv) for cv in cvs])
            vectors[by_student], tiers[by_student] = [0.0, 1.0], Tier.STUDENT
        all_false = np.zeros(len(ids), bool)
        age = np.where(known, 60.0, np.nan)
        has = tiers != Tier.PRIOR
        return SeekerVectors(vectors, tiers, age, all_false, all_false, has, vectors, has, self.contract, None)

    def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        from girl_features.lookup import JobVectors

        vectors = np.array([self.vectors.get(name, [0.0, 0.0]) for name in ids], np.float32).reshape(-1, 2)
        return JobVectors(vectors, vectors.any(axis=1), self.contract, None)

    def close(self) -> None:
        self.is_closed = True
