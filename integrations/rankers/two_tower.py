"""Two-tower rankers in torch: the paper's predictors (GIRL, eq. 10-15) and the same with interaction terms.

`mlp-plain` and `dot-plain` are the paper's. On a few thousand pairs with a good encoder, the cosine of CV and JD
tells more than an MLP can learn from both vectors, so `mlp` and `dot` add products and cosines; see DESIGNS.

All are trained on the log loss of a match with AdamW, stopped early by the log loss on the valid part (the weights
before the first step count too), and Platt-scaled on the valid part. This holds for `dot-plain` base as well, which
the paper neither trains nor calibrates: without calibration its log loss could not be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from girl_features.errors import CheckpointError, ConfigError, GirlError
from girl_features.integrations.rankers import ranker_files as files
from girl_features.integrations.rankers import two_tower_networks as networks
from girl_features.integrations.rankers.early_stopping import train_with_early_stopping
from girl_features.integrations.rankers.pair_inputs import (
    COSINE_BLOCKS,
    ColumnScaler,
    RankerRow,
    check_columns_read,
    check_scored,
    check_training_parts,
    columns_width,
    fit_scaler,
    parts,
    scaled_columns,
    visible,
)
from girl_features.ranker import PairFeatures
from girl_features.torch_threads import one_thread
from girl_features.vectors.regression import fit_calibration, fit_logistic, log_loss_of_logits

WEIGHTS = "ranker.safetensors"
_PARTS = ("mlp", "jd_tower", "linear")  # names of NetworkDesign.parts in the file


class NetworkDesign(NamedTuple):
    """A network, and the blocks of columns (see pair_inputs) that each of its parts reads."""

    network: type[nn.Module]
    mlp: tuple[str, ...]
    jd_tower: tuple[str, ...] = ()
    linear: tuple[str, ...] = ()
    hidden: int = 128
    learning_rate: float = 1e-3

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The blocks of each part, in the order of NetworkInputs."""
        return self.mlp, self.jd_tower, self.linear

    def build(self, dimension: int, n_columns: int, dropout: float) -> nn.Module:
        """Return the network with fresh weights, for pairs with so many columns beside their vectors."""
        mlp, jd_tower, linear = (columns_width(blocks, dimension, n_columns) for blocks in self.parts)
        network: nn.Module = self.network(networks.Widths(dimension, mlp, jd_tower, linear, self.hidden), dropout)
        return network


_PRODUCTS = ("cv_times_jd", "generated_jd_times_jd")
_COSINE = ("cos_cv_jd", "columns")
_COSINES = (*COSINE_BLOCKS, "columns")

DESIGNS: dict[tuple[str, RankerRow], NetworkDesign] = {
    ("mlp-plain", "base"): NetworkDesign(networks.PlainMLP, ("cv", "jd")),  # eq. 10
    ("mlp-plain", "enhanced"): NetworkDesign(networks.PlainMLP, ("cv", "jd", "generated_jd")),  # eq. 13
    ("dot-plain", "base"): NetworkDesign(networks.PlainDot, ()),  # eq. 11
    ("dot-plain", "enhanced"): NetworkDesign(networks.PlainDotTower, ("cv", "generated_jd")),  # eq. 14, 15
    ("mlp", "base"): NetworkDesign(networks.InteractionMLP, ("cv", "jd", "cv_times_jd", *_COSINE), linear=_COSINE),
    ("mlp", "enhanced"): NetworkDesign(
        networks.InteractionMLP, ("cv", "jd", "generated_jd", *_PRODUCTS, *_COSINES), linear=_COSINES
    ),
    ("dot", "base"): NetworkDesign(networks.ResidualDot, ("cv",), ("jd",), _COSINE, hidden=64, learning_rate=3e-4),
    ("dot", "enhanced"): NetworkDesign(
        networks.ResidualDot, ("cv", "generated_jd"), ("jd",), _COSINES, hidden=64, learning_rate=3e-4
    ),
}


@dataclass(frozen=True)
class TrainingSettings:
    """Training of the networks; the defaults suit a few thousand pairs of 384-d vectors."""

    dropout: float = 0.5
    weight_decay: float = 1e-2
    batch_size: int = 128
    max_epochs: int = 60
    patience: int = 6  # epochs without a lower valid log loss


class _ScaledNetwork(NamedTuple):
    """A network of a design, and the scalers of its columns."""

    design: NetworkDesign
    network: nn.Module
    scalers: tuple[ColumnScaler, ...]  # of design.parts

    def __call__(self, features: PairFeatures) -> Tensor:
        blocks_and_scalers = zip(self.design.parts, self.scalers, strict=True)
        scaled = [scaled_columns(features, blocks, scaler) for blocks, scaler in blocks_and_scalers]
        arrays = [features.cv.astype(np.float32), features.jd.astype(np.float32), *scaled]
        logits: Tensor = self.network(networks.NetworkInputs(*(torch.from_numpy(array) for array in arrays)))
        return logits

    def logits(self, features: PairFeatures) -> np.ndarray:
        """Return the (n,) float64 output without dropout."""
        self.network.eval()
        with one_thread(), torch.no_grad():
            logits = [self(part).numpy().astype(np.float64) for part in parts(features)]
        return np.concatenate([np.zeros(0), *logits])

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"network.{name}": value.numpy() for name, value in self.network.state_dict().items()}
        for part, scaler in zip(_PARTS, self.scalers, strict=True):
            arrays |= scaler.arrays(part)
        return arrays

    @classmethod
    def read(cls, path: Path, design: NetworkDesign, dimension: int, n_columns: int) -> _ScaledNetwork:
        """Read what `arrays` returned. A network that is read only scores, so it needs no dropout."""
        with torch.random.fork_rng(devices=[]):
            network = design.build(dimension, n_columns, dropout=0.0)
        shapes = {f"network.{name}": tuple(value.shape) for name, value in network.state_dict().items()}
        for part, blocks in zip(_PARTS, design.parts, strict=True):
            shapes |= ColumnScaler.shapes(part, columns_width(blocks, dimension, n_columns))
        arrays = files.read_arrays(path, shapes)
        network.load_state_dict({name: torch.from_numpy(arrays[f"network.{name}"]) for name in network.state_dict()})
        return cls(design, network, tuple(ColumnScaler.from_arrays(arrays, part) for part in _PARTS))


class TwoTowerRanker:
    """A Ranker around one network of DESIGNS. The same seed, data and machine give the same scores."""

    def __init__(self, predictor: str, row: RankerRow, seed: int = 0, settings: TrainingSettings | None = None) -> None:
        """Raise ConfigError if DESIGNS has no such predictor and row."""
        if (predictor, row) not in DESIGNS:
            known = ", ".join(f"{name} {row}" for name, row in DESIGNS)
            raise ConfigError(f"no two-tower ranker {predictor!r} {row!r}; known are: {known}")
        self.predictor, self.row, self.seed = predictor, row, seed
        self.settings = settings or TrainingSettings()
        self._design = DESIGNS[predictor, row]
        self._fitted: tuple[_ScaledNetwork, files.RankerManifest] | None = None

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Errors as `check_training_parts` and `check_columns_read`.
        """
        check_columns_read(self.predictor, {*chain.from_iterable(self._design.parts)}, features)
        check_training_parts(features, labels, valid_features, valid_labels, self.row)
        features, valid = visible(features, self.row), visible(valid_features, self.row)
        scalers = tuple(fit_scaler(features, blocks) for blocks in self._design.parts)
        # weights and dropout draw from torch's global generator
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._design.build(features.cv.shape[1], len(features.column_names), self.settings.dropout)
            scaled = _ScaledNetwork(self._design, network, scalers)
            if self._design.linear:
                _start_linear_part(network, scaled_columns(features, self._design.linear, scalers[2]), labels)
            if list(network.parameters()):
                self._train(scaled, features, labels, lambda: log_loss_of_logits(scaled.logits(valid), valid_labels))
        calibration = fit_calibration(scaled.logits(valid), valid_labels)
        self._fitted = scaled, files.new_manifest(self.predictor, self.row, self.seed, features, calibration)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1). Errors as `check_scored`."""
        _, manifest = self._require_fitted()
        return manifest.probabilities(self.raw_score(features))

    def raw_score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 scores before calibration: logits, or c . j for `dot-plain` base. Errors as `score`."""
        network, manifest = self._require_fitted()
        check_scored(features, self.row, manifest.trained_on)
        return network.logits(visible(features, self.row))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and manifest (JSON) to `folder`; make the folder."""
        network, manifest = self._require_fitted()
        files.make_folder(folder, (WEIGHTS,))
        files.write_arrays(folder / WEIGHTS, network.arrays())
        files.write_manifest(folder, manifest, (WEIGHTS,))

    @classmethod
    def load(cls, folder: Path) -> TwoTowerRanker:
        """Load the ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = files.read_manifest(folder, files.RankerManifest, (WEIGHTS,))
        if (manifest.predictor, manifest.row) not in DESIGNS:
            raise CheckpointError(f"{folder} holds a {manifest.predictor!r} ranker, not a two-tower one")
        ranker = cls(manifest.predictor, manifest.row, manifest.seed)
        sizes = manifest.dimension, len(manifest.columns)
        ranker._fitted = _ScaledNetwork.read(folder / WEIGHTS, ranker._design, *sizes), manifest
        return ranker

    def _require_fitted(self) -> tuple[_ScaledNetwork, files.RankerManifest]:
        if self._fitted is None:
            raise GirlError(f"this {self.predictor} {self.row} ranker is not trained yet; call fit() or load()")
        return self._fitted

    def _train(
        self, scaled: _ScaledNetwork, features: PairFeatures, labels: np.ndarray, valid_loss: Callable[[], float]
    ) -> None:
        network, settings = scaled.network, self.settings
        learning_rate, targets = self._design.learning_rate, torch.from_numpy(labels.astype(np.float32))

        def batch_loss(rows: np.ndarray) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(scaled(features.take(rows)), targets[rows])

        train_with_early_stopping(
            network,
            torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=settings.weight_decay),
            batch_loss,
            valid_loss,
            n_rows=len(labels),
            batch_size=settings.batch_size,
            max_epochs=settings.max_epochs,
            patience=settings.patience,
            seed=self.seed,
            first_loss=valid_loss(),
        )


def _start_linear_part(network: nn.Module, columns: np.ndarray, labels: np.ndarray) -> None:
    """Set the linear part to the logistic regression of the labels on its (n, w) columns."""
    weights = torch.from_numpy(fit_logistic(columns, labels).astype(np.float32))
    linear = cast(nn.Linear, network.linear)
    with torch.no_grad():
        linear.weight.copy_(weights[None, :-1])
        linear.bias.copy_(weights[-1:])
