"""TextRankers around the networks of text_networks.py, which read ids or words.

They are trained by AdamW on the log loss of a match, stopped early by the log loss on the valid part, and Platt-scaled
on the valid part. The vocabulary holds the frequent words of the training part. A text is cut after `max_words` words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from girl_features.errors import CheckpointError, ConfigError, GirlError
from girl_features.integrations.rankers.early_stopping import batches, train_with_early_stopping
from girl_features.integrations.rankers.ranker_files import (
    TextRankerManifest,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from girl_features.lab.baselines import text_networks as networks
from girl_features.ranker import PairTexts, check_text_parts
from girl_features.torch_threads import one_thread
from girl_features.vectors.regression import Calibration, fit_calibration, log_loss_of_logits

WEIGHTS, NAMES = "ranker.safetensors", "names.json"
_WORD = re.compile(r"\w+")


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


@dataclass(frozen=True)
class TextSettings:
    """Settings that all networks share; the defaults suit some thousand pairs."""

    max_words: int = 128
    n_words: int = 12_000
    min_count: int = 2
    weight_decay: float = 1e-3
    batch_size: int = 64


class _FittedNetwork(NamedTuple):
    network: nn.Module
    seekers: dict[str, int]  # word or seeker id -> number from 2
    jobs: dict[str, int]  # word or job id -> number from 2
    calibration: Calibration


class NeuralTextRanker:
    """A TextRanker around one of TEXT_NETWORKS. The same seed, data and machine give the same scores."""

    def __init__(self, name: str, seed: int = 0, settings: TextSettings | None = None) -> None:
        """Choose the network; ConfigError if TEXT_NETWORKS has no such name."""
        if name not in TEXT_NETWORKS:
            raise ConfigError(f"no text ranker {name!r}; choose one of {', '.join(TEXT_NETWORKS)}")
        self.name, self.seed, self.settings = name, seed, settings or TextSettings()
        self._spec = TEXT_NETWORKS[name]
        self._fitted: _FittedNetwork | None = None

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train and calibrate the network; ShapeError as in every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        seekers, jobs = self._vocabularies(texts)
        with one_thread(), torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
            torch.manual_seed(self.seed)
            network = self._spec.network(len(seekers) + 2, len(jobs) + 2)
            fitted = _FittedNetwork(network, seekers, jobs, Calibration(1.0, 0.0))
            self._train(fitted, texts, labels, valid_texts, valid_labels)
        self._fitted = fitted._replace(calibration=fit_calibration(self._logits(fitted, valid_texts), valid_labels))

    def score(self, texts: PairTexts) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1)."""
        fitted = self._require_fitted()
        return fitted.calibration.probabilities(self._logits(fitted, texts))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), vocabulary and manifest (JSON) to `folder`, which is created if missing."""
        fitted = self._require_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / WEIGHTS, {name: value.numpy() for name, value in fitted.network.state_dict().items()})
        names = json.dumps({"seekers": list(fitted.seekers), "jobs": list(fitted.jobs)})
        (folder / NAMES).write_text(names, encoding="utf-8")
        manifest = TextRankerManifest(
            name=self.name,
            seed=self.seed,
            max_words=self.settings.max_words,
            slope=fitted.calibration.slope,
            intercept=fitted.calibration.intercept,
            sha256={},
        )
        write_manifest(folder, manifest, (WEIGHTS, NAMES))

    @classmethod
    def load(cls, folder: Path) -> NeuralTextRanker:
        """Return the ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: the ranker is missing, incomplete, altered, or of another format.
        """
        manifest = read_manifest(folder, TextRankerManifest, (WEIGHTS, NAMES))
        if manifest.name not in TEXT_NETWORKS:
            raise CheckpointError(
                f"{folder} holds a {manifest.name!r} ranker; this version reads {', '.join(TEXT_NETWORKS)}"
            )
        ranker = cls(manifest.name, manifest.seed, TextSettings(max_words=manifest.max_words))
        names = json.loads((folder / NAMES).read_text(encoding="utf-8"))  # read_manifest has checked its hash
        seekers, jobs = _numbered(names["seekers"]), _numbered(names["jobs"])
        with torch.random.fork_rng(devices=[]):
            network = ranker._spec.network(len(seekers) + 2, len(jobs) + 2)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        arrays = read_arrays(folder / WEIGHTS, shapes)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        ranker._fitted = _FittedNetwork(network, seekers, jobs, Calibration(manifest.slope, manifest.intercept))
        return ranker

    def _require_fitted(self) -> _FittedNetwork:
        if self._fitted is None:
            raise GirlError(f"this {self.name} ranker is not trained yet; call fit() or load()")
        return self._fitted

    def _vocabularies(self, texts: PairTexts) -> tuple[dict[str, int], dict[str, int]]:
        if self._spec.reads == "ids":
            return _numbered(np.unique(texts.job_seeker_ids)), _numbered(np.unique(texts.job_ids))
        counts: Counter[str] = Counter()
        for text in dict.fromkeys([*texts.cvs, *texts.jds]):
            counts.update(self._words(text))
        frequent = [word for word, n in counts.most_common(self.settings.n_words) if n >= self.settings.min_count]
        return _numbered(frequent), _numbered(frequent)

    def _words(self, text: str) -> list[str]:
        return [match[0] for match in islice(_WORD.finditer(text.lower()), self.settings.max_words)]

    def _numbers(self, fitted: _FittedNetwork, texts: PairTexts) -> tuple[list[list[int]], list[list[int]]]:
        """Return the numbers of the words, or of the id, of both sides of each pair. Equal texts are read once."""
        if self._spec.reads == "ids":
            return (
                [[fitted.seekers.get(str(seeker), networks.UNKNOWN)] for seeker in texts.job_seeker_ids],
                [[fitted.jobs.get(str(job), networks.UNKNOWN)] for job in texts.job_ids],
            )
        numbers_of: dict[str, list[int]] = {}
        for text in dict.fromkeys([*texts.cvs, *texts.jds]):
            numbers_of[text] = [fitted.seekers.get(word, networks.UNKNOWN) for word in self._words(text)]
        return [numbers_of[text] for text in texts.cvs], [numbers_of[text] for text in texts.jds]

    def _train(
        self, fitted: _FittedNetwork, texts: PairTexts, labels: np.ndarray, valid: PairTexts, valid_labels: np.ndarray
    ) -> None:
        network, spec, settings = fitted.network, self._spec, self.settings
        targets = torch.from_numpy(labels.astype(np.float32))
        seekers, jobs = self._numbers(fitted, texts)

        def batch_loss(rows: np.ndarray) -> Tensor:
            logits = network(_padded([seekers[i] for i in rows]), _padded([jobs[i] for i in rows]))
            return nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])

        train_with_early_stopping(
            network,
            torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, weight_decay=settings.weight_decay),
            batch_loss,
            lambda: log_loss_of_logits(self._logits(fitted, valid), valid_labels),
            n_rows=len(labels),
            batch_size=settings.batch_size,
            max_epochs=spec.max_epochs,
            patience=spec.patience,
            seed=self.seed,
        )

    def _logits(self, fitted: _FittedNetwork, texts: PairTexts) -> np.ndarray:
        fitted.network.eval()
        seekers, jobs = self._numbers(fitted, texts)
        logits = np.zeros(len(seekers))
        order = np.argsort([len(numbers) for numbers in seekers], kind="stable")  # similar lengths need little padding
        with one_thread(), torch.no_grad():
            for rows in batches(order, 256):
                batch = _padded([seekers[i] for i in rows]), _padded([jobs[i] for i in rows])
                logits[rows] = fitted.network(*batch).numpy()
        return logits


def _numbered(names: Sequence[str] | np.ndarray) -> dict[str, int]:
    return {str(name): i for i, name in enumerate(names, 2)}


def _padded(rows: list[list[int]]) -> Tensor:
    width = max(1, *(len(row) for row in rows))
    padded = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
