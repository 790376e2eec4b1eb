"""TextRankers around the networks of text_networks.py, which read ids or words.

They are trained by AdamW on the log loss of a match, stopped early by the log loss on the valid part, and Platt-scaled
on the valid part. The vocabulary holds the frequent words of the training part. A text is cut after `max_words` words.
The settings suit some thousand pairs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from girl_features.errors import ConfigError, GirlError
from girl_features.generator.words import UNSPACED
from girl_features.integrations.rankers.early_stopping import batches_by_length, train_with_early_stopping
from girl_features.lab.baselines import text_networks as networks
from girl_features.ranker import PairTexts, check_text_parts
from girl_features.torch_threads import one_thread
from girl_features.vectors.regression import Calibration, fit_calibration, log_loss_of_logits

MAX_WORDS = 128
N_WORDS, MIN_COUNT = 12_000, 2  # size of the vocabulary, and times that its words occur in distinct training texts
WEIGHT_DECAY, BATCH_SIZE = 1e-3, 64
# A word, or a character of a script without spaces between words. Marks of other scripts, such as the vowel signs of
# Hindi, belong to the word; Python's \w leaves them out.
_WORD = re.compile(
    rf"[{UNSPACED}]|[^\W{UNSPACED}](?:[^\W{UNSPACED}]|[\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0963])*"
)
_Numbers = tuple[list[list[int]], list[list[int]]]  # of the words, or of the id, of the seeker and the job of each pair


class TextNetworkSpec(NamedTuple):
    """A network with its input and its training settings."""

    network: Callable[[int, int], nn.Module]  # arguments: sizes of the seekers' and of the jobs' vocabulary
    reads: Literal["ids", "words"]
    learning_rate: float
    max_epochs: int = 12
    patience: int = 3  # epochs without a lower valid log loss


TEXT_NETWORKS: dict[str, TextNetworkSpec] = {
    "ncf": TextNetworkSpec(networks.NCF, "ids", 3e-3, max_epochs=80, patience=15),
    "pjfnn": TextNetworkSpec(lambda n_words, _: networks.PJFNN(n_words), "words", 2e-3),
    "apjfnn": TextNetworkSpec(lambda n_words, _: networks.APJFNN(n_words), "words", 2e-3),
}


class _FittedNetwork(NamedTuple):
    network: nn.Module
    seekers: dict[str, int]  # word or seeker id -> number from 2
    jobs: dict[str, int]  # word or job id -> number from 2
    calibration: Calibration


class NeuralTextRanker:
    """A TextRanker around one of TEXT_NETWORKS. The same seed, data and machine give the same scores."""

    def __init__(self, name: str, seed: int = 0, max_words: int = MAX_WORDS) -> None:
        """Choose the network; ConfigError if TEXT_NETWORKS has no such name."""
        if name not in TEXT_NETWORKS:
            raise ConfigError(f"no text ranker {name!r}; choose one of {', '.join(TEXT_NETWORKS)}")
        self.name, self.seed, self.max_words = name, seed, max_words
        self._spec = TEXT_NETWORKS[name]
        self._fitted: _FittedNetwork | None = None

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train and calibrate the network; ShapeError as in every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        seekers, jobs = self._vocabularies(texts)
        with one_thread(), torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
            torch.manual_seed(self.seed)
            network = self._spec.network(len(seekers) + 2, len(jobs) + 2)
            train = self._numbers(texts, seekers, jobs)
            valid = self._numbers(valid_texts, seekers, jobs)
            self._train(network, train, labels, valid, valid_labels)
        calibration = fit_calibration(_logits(network, *valid), valid_labels)
        self._fitted = _FittedNetwork(network, seekers, jobs, calibration)

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1)."""
        fitted = self._require_fitted()
        numbers = self._numbers(texts, fitted.seekers, fitted.jobs)
        return fitted.calibration.probabilities(_logits(fitted.network, *numbers))

    def _require_fitted(self) -> _FittedNetwork:
        if self._fitted is None:
            raise GirlError(f"this {self.name} ranker is not trained yet; call fit()")
        return self._fitted

    def _vocabularies(self, texts: PairTexts) -> tuple[dict[str, int], dict[str, int]]:
        if self._spec.reads == "ids":
            return _numbered(np.unique(texts.job_seeker_ids)), _numbered(np.unique(texts.job_ids))
        counts = Counter(word for text in dict.fromkeys([*texts.cvs, *texts.jds]) for word in self._words(text))
        frequent = _numbered([word for word, n in counts.most_common(N_WORDS) if n >= MIN_COUNT])
        return frequent, frequent

    def _numbers(self, texts: PairTexts, seekers: dict[str, int], jobs: dict[str, int]) -> _Numbers:
        """Return the numbers of the words, or of the id, of both sides of each pair. Equal texts are read once."""
        if self._spec.reads == "ids":
            return (
                [[seekers.get(str(seeker), networks.UNKNOWN)] for seeker in texts.job_seeker_ids],
                [[jobs.get(str(job), networks.UNKNOWN)] for job in texts.job_ids],
            )
        numbers_of: dict[str, list[int]] = {}
        for text in dict.fromkeys([*texts.cvs, *texts.jds]):
            numbers_of[text] = [seekers.get(word, networks.UNKNOWN) for word in self._words(text)]
        return [numbers_of[text] for text in texts.cvs], [numbers_of[text] for text in texts.jds]

    def _words(self, text: str) -> list[str]:
        return [match[0] for match in islice(_WORD.finditer(text.lower()), self.max_words)]

    def _train(
        self, network: nn.Module, train: _Numbers, labels: np.ndarray, valid: _Numbers, valid_labels: np.ndarray
    ) -> None:
        targets = torch.from_numpy(labels.astype(np.float32))

        def batch_loss(rows: np.ndarray) -> Tensor:
            logits = network(*(_padded([side[i] for i in rows]) for side in train))
            return nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])

        train_with_early_stopping(
            network,
            torch.optim.AdamW(network.parameters(), lr=self._spec.learning_rate, weight_decay=WEIGHT_DECAY),
            batch_loss,
            lambda: log_loss_of_logits(_logits(network, *valid), valid_labels),
            n_rows=len(labels),
            batch_size=BATCH_SIZE,
            max_epochs=self._spec.max_epochs,
            patience=self._spec.patience,
            seed=self.seed,
        )


def _numbered(names: Sequence[str] | np.ndarray) -> dict[str, int]:
    return {str(name): i for i, name in enumerate(names, 2)}


def _logits(network: nn.Module, seekers: list[list[int]], jobs: list[list[int]]) -> np.ndarray:
    network.eval()
    logits = np.zeros(len(seekers))
    with one_thread(), torch.no_grad():
        for rows in batches_by_length(seekers, 256):
            logits[rows] = network(_padded([seekers[i] for i in rows]), _padded([jobs[i] for i in rows])).numpy()
    return logits


def _padded(rows: list[list[int]]) -> Tensor:
    width = max(1, *(len(row) for row in rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
