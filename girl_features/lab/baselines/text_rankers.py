"""TextRankers around the networks of text_networks.py: ids or words in, trained as every ranker here is.

AdamW on the log loss of a match, stopped early by the valid part's log loss, Platt-scaled on the valid part. Words
are the frequent ones of the training part; a text is cut after its first `max_words`.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from girl_features.errors import CheckpointError, ConfigError, GirlError, require
from girl_features.integrations.rankers.calibration import Calibration, fit_calibration
from girl_features.integrations.rankers.ranker_files import (
    TextRankerManifest,
    hashes,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from girl_features.ranker import PairTexts, check_text_parts

require("torch", "rank")
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from girl_features.lab.baselines import text_networks as networks  # noqa: E402
from girl_features.torch_threads import one_thread  # noqa: E402

WEIGHTS, NAMES = "ranker.safetensors", "names.json"
_WORD = re.compile(r"\w+")


class Form(NamedTuple):
    """A network, and whether it reads ids or words."""

    network: Callable[[int, int], nn.Module]  # from the sizes of the seekers' and the jobs' vocabulary
    reads: Literal["ids", "words"]
    learning_rate: float
    max_epochs: int = 12
    patience: int = 3  # epochs without a lower valid log loss


FORMS: dict[str, Form] = {
    "ncf": Form(networks.NCF, "ids", 3e-3, max_epochs=80, patience=15),
    "pjfnn": Form(lambda n, _: networks.PJFNN(n), "words", 2e-3),
    "apjfnn": Form(lambda n, _: networks.APJFNN(n), "words", 2e-3),
}


@dataclass(frozen=True)
class TextSettings:
    """How they are trained; the defaults suit some thousand pairs."""

    max_words: int = 128
    n_words: int = 12_000
    min_count: int = 2
    weight_decay: float = 1e-3
    batch_size: int = 64


class _Fitted(NamedTuple):
    network: nn.Module
    seekers: dict[str, int]  # words, or seeker ids, to numbers from 2
    jobs: dict[str, int]  # the same words, or job ids
    calibration: Calibration


class NeuralTextRanker:
    """A TextRanker around one network of FORMS. Same seed, data and machine: same scores."""

    def __init__(self, name: str, seed: int = 0, settings: TextSettings | None = None) -> None:
        """Raises ConfigError where FORMS has no such name."""
        if name not in FORMS:
            raise ConfigError(f"no text ranker {name!r}; known are: {', '.join(FORMS)}")
        self.name, self.seed, self.settings = name, seed, settings or TextSettings()
        self._form = FORMS[name]
        self._fitted: _Fitted | None = None

    def fit(self, texts: PairTexts, labels: np.ndarray, valid_texts: PairTexts, valid_labels: np.ndarray) -> None:
        """Train; ShapeError as every TextRanker."""
        check_text_parts(texts, labels, valid_texts, valid_labels)
        seekers, jobs = self._vocabularies(texts)
        with one_thread(), torch.random.fork_rng(devices=[]):  # weights and dropout draw from the global generator
            torch.manual_seed(self.seed)
            network = self._form.network(len(seekers) + 2, len(jobs) + 2)
            fitted = _Fitted(network, seekers, jobs, Calibration(1.0, 0.0))
            self._train(fitted, texts, labels, valid_texts, valid_labels)
        self._fitted = fitted._replace(calibration=fit_calibration(self._logits(fitted, valid_texts), valid_labels))

    def score(self, texts: PairTexts) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1)."""
        fitted = self._require_fitted()
        return fitted.calibration.probabilities(self._logits(fitted, texts))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), vocabulary and manifest (JSON) to `folder`, made if need be."""
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
            sha256=hashes(folder, (WEIGHTS, NAMES)),
        )
        write_manifest(folder, manifest)

    @classmethod
    def load(cls, folder: Path) -> NeuralTextRanker:
        """The ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = read_manifest(folder, TextRankerManifest, (WEIGHTS, NAMES))
        if manifest.name not in FORMS:
            raise CheckpointError(f"{folder} holds a {manifest.name!r} ranker; known are: {', '.join(FORMS)}")
        ranker = cls(manifest.name, manifest.seed, TextSettings(max_words=manifest.max_words))
        names = json.loads((folder / NAMES).read_text(encoding="utf-8"))  # its hash was that of the manifest
        seekers, jobs = ({name: i for i, name in enumerate(names[side], 2)} for side in ("seekers", "jobs"))
        with torch.random.fork_rng(devices=[]):
            network = ranker._form.network(len(seekers) + 2, len(jobs) + 2)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        arrays = read_arrays(folder / WEIGHTS, shapes)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        ranker._fitted = _Fitted(network, seekers, jobs, Calibration(manifest.slope, manifest.intercept))
        return ranker

    def _require_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise GirlError(f"this {self.name} ranker is not trained yet; call fit() or load()")
        return self._fitted

    def _vocabularies(self, texts: PairTexts) -> tuple[dict[str, int], dict[str, int]]:
        if self._form.reads == "ids":
            return _numbered(np.unique(texts.job_seeker_ids)), _numbered(np.unique(texts.job_ids))
        counts: Counter[str] = Counter()
        for text in dict.fromkeys([*texts.cvs, *texts.jds]):
            counts.update(self._words(text))
        frequent = [w for w, n in counts.most_common(self.settings.n_words) if n >= self.settings.min_count]
        return _numbered(frequent), _numbered(frequent)

    def _words(self, text: str) -> list[str]:
        found = (match[0] for match in _WORD.finditer(text.lower()))
        return [word for word, _ in zip(found, range(self.settings.max_words), strict=False)]

    def _numbers(self, fitted: _Fitted, texts: PairTexts) -> tuple[list[list[int]], list[list[int]]]:
        """Word or id numbers of both sides of each pair; each distinct text is read once."""
        if self._form.reads == "ids":
            sides = ((texts.job_seeker_ids, fitted.seekers), (texts.job_ids, fitted.jobs))
            seekers, jobs = ([[numbers.get(str(i), networks.UNKNOWN)] for i in ids] for ids, numbers in sides)
            return seekers, jobs
        known: dict[str, list[int]] = {}
        for text in dict.fromkeys([*texts.cvs, *texts.jds]):
            known[text] = [fitted.seekers.get(word, networks.UNKNOWN) for word in self._words(text)]
        return [known[text] for text in texts.cvs], [known[text] for text in texts.jds]

    def _train(
        self, fitted: _Fitted, texts: PairTexts, labels: np.ndarray, valid: PairTexts, valid_labels: np.ndarray
    ) -> None:
        """Leave the network with the weights of the epoch whose valid log loss was lowest."""
        network, settings = fitted.network, self.settings
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self._form.learning_rate, weight_decay=settings.weight_decay
        )
        rng, targets = np.random.default_rng(self.seed), torch.from_numpy(labels.astype(np.float32))
        seekers, jobs = self._numbers(fitted, texts)
        best_loss, best_epoch, best = np.inf, 0, copy.deepcopy(network.state_dict())
        for epoch in range(1, self._form.max_epochs + 1):
            network.train()
            for rows in _batches(rng.permutation(len(labels)), settings.batch_size):
                logits = network(_padded([seekers[i] for i in rows]), _padded([jobs[i] for i in rows]))
                loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            valid_loss = log_loss_of_logits(self._logits(fitted, valid), valid_labels)
            if valid_loss < best_loss:
                best_loss, best_epoch, best = valid_loss, epoch, copy.deepcopy(network.state_dict())
            elif epoch - best_epoch >= self._form.patience:
                break
        network.load_state_dict(best)

    def _logits(self, fitted: _Fitted, texts: PairTexts) -> np.ndarray:
        fitted.network.eval()
        seekers, jobs = self._numbers(fitted, texts)
        logits = np.zeros(len(seekers))
        order = np.argsort([len(own) for own in seekers], kind="stable")  # batches pad little
        with one_thread(), torch.no_grad():
            for rows in _batches(order, 256):
                batch = _padded([seekers[i] for i in rows]), _padded([jobs[i] for i in rows])
                logits[rows] = fitted.network(*batch).numpy()
        return logits


def log_loss_of_logits(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean log loss in nats of (n,) logits."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def _numbered(names: Sequence[str] | np.ndarray) -> dict[str, int]:
    return {str(name): i for i, name in enumerate(names, 2)}


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _padded(rows: list[list[int]]) -> Tensor:
    width = max(1, *(len(row) for row in rows))
    padded = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
