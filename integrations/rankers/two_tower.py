"""Two-tower rankers in torch: the paper's predictors (GIRL, eq. 10-15) and the same with interaction terms.

`mlp-plain` and `dot-plain` are the paper's. On a few thousand pairs with a good encoder, the cosine of CV and JD
tells more than an MLP can learn from both vectors, so `mlp` and `dot` add products and cosines; see DESIGNS.

All are trained on the log loss of a match with AdamW, stopped early by the log loss on the valid part (the weights
before the first step count too), and Platt-scaled on the valid part. This holds for `dot-plain` base as well, which
the paper neither trains nor calibrates: without calibration its log loss could not be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from girl_features.errors import CheckpointError, ConfigError, GirlError
from girl_features.integrations.rankers import two_tower_networks as networks
from girl_features.integrations.rankers.pair_inputs import (
    COSINE_BLOCKS,
    ROWS_AT_ONCE,
    ColumnScaler,
    RankerRow,
    check_features,
    check_scored,
    check_training_parts,
    columns_width,
    fit_scaler,
    scaled_columns,
    visible,
)
from girl_features.integrations.rankers.ranker_files import (
    RankerManifest,
    hashes,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from girl_features.ranker import PairFeatures
from girl_features.torch_threads import one_thread
from girl_features.vectors.regression import Calibration, fit_calibration, fit_logistic, log_loss_of_logits

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

    def build(self, dimension: int, dropout: float) -> nn.Module:
        """Return the network with fresh weights."""
        mlp, jd_tower, linear = (columns_width(blocks, dimension) for blocks in self.parts)
        network: nn.Module = self.network(networks.Widths(dimension, mlp, jd_tower, linear, self.hidden), dropout)
        return network

    def inputs(self, scalers: tuple[ColumnScaler, ...], features: PairFeatures) -> networks.NetworkInputs:
        """Return the network's inputs for the pairs of `features`."""
        scaled = [scaled_columns(features, blocks, scaler) for blocks, scaler in zip(self.parts, scalers, strict=True)]
        arrays = [features.cv.astype(np.float32), features.jd.astype(np.float32), *scaled]
        return networks.NetworkInputs(*(torch.from_numpy(array) for array in arrays))


_PRODUCTS = ("cv_times_jd", "generated_jd_times_jd")

DESIGNS: dict[tuple[str, RankerRow], NetworkDesign] = {
    ("mlp-plain", "base"): NetworkDesign(networks.PlainMLP, ("cv", "jd")),  # eq. 10
    ("mlp-plain", "enhanced"): NetworkDesign(networks.PlainMLP, ("cv", "jd", "generated_jd")),  # eq. 13
    ("dot-plain", "base"): NetworkDesign(networks.PlainDot, ()),  # eq. 11
    ("dot-plain", "enhanced"): NetworkDesign(networks.PlainDotTower, ("cv", "generated_jd")),  # eq. 14, 15
    ("mlp", "base"): NetworkDesign(
        networks.InteractionMLP, ("cv", "jd", "cv_times_jd", "cos_cv_jd"), linear=("cos_cv_jd",)
    ),
    ("mlp", "enhanced"): NetworkDesign(
        networks.InteractionMLP, ("cv", "jd", "generated_jd", *_PRODUCTS, *COSINE_BLOCKS), linear=COSINE_BLOCKS
    ),
    ("dot", "base"): NetworkDesign(
        networks.ResidualDot, ("cv",), ("jd",), ("cos_cv_jd",), hidden=64, learning_rate=3e-4
    ),
    ("dot", "enhanced"): NetworkDesign(
        networks.ResidualDot, ("cv", "generated_jd"), ("jd",), COSINE_BLOCKS, hidden=64, learning_rate=3e-4
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


class _FittedNetwork(NamedTuple):
    network: nn.Module
    scalers: tuple[ColumnScaler, ...]  # of NetworkDesign.parts
    calibration: Calibration
    contract: str
    dimension: int

    @classmethod
    def blank(cls, design: NetworkDesign, manifest: RankerManifest, dropout: float) -> _FittedNetwork:
        """Return the saved ranker's shapes and calibration, with fresh weights to be replaced."""
        scalers = tuple(ColumnScaler.blank(columns_width(blocks, manifest.dimension)) for blocks in design.parts)
        with torch.random.fork_rng(devices=[]):
            network = design.build(manifest.dimension, dropout)
        calibration = Calibration(manifest.slope, manifest.intercept)
        return cls(network, scalers, calibration, manifest.contract, manifest.dimension)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything learned except the calibration, by its name in the file."""
        arrays = {f"network.{name}": value.numpy() for name, value in self.network.state_dict().items()}
        for part, scaler in zip(_PARTS, self.scalers, strict=True):
            arrays |= scaler.arrays(part)
        return arrays

    def filled(self, arrays: dict[str, np.ndarray]) -> _FittedNetwork:
        """Return the same ranker with the weights and scalers of `arrays`."""
        state = {name: torch.from_numpy(arrays[f"network.{name}"]) for name in self.network.state_dict()}
        self.network.load_state_dict(state)
        return self._replace(scalers=tuple(ColumnScaler.from_arrays(arrays, part) for part in _PARTS))


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
        self._fitted: _FittedNetwork | None = None

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Errors as `check_training_parts`.
        """
        check_training_parts(features, labels, valid_features, valid_labels, self.row)
        features, valid_features = visible(features, self.row), visible(valid_features, self.row)
        design, dimension = self._design, features.cv.shape[1]
        scalers = tuple(fit_scaler(features, blocks) for blocks in design.parts)
        # weights and dropout draw from torch's global generator
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = design.build(dimension, self.settings.dropout)
            fitted = _FittedNetwork(network, scalers, Calibration(1.0, 0.0), features.contract, dimension)
            if design.linear:
                _start_linear_part(network, scaled_columns(features, design.linear, scalers[2]), labels)
            if list(network.parameters()):
                self._train(fitted, features, labels, valid_features, valid_labels)
        calibration = fit_calibration(self._logits(fitted, valid_features), valid_labels)
        self._fitted = fitted._replace(calibration=calibration)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1).

        Errors as `check_features` and `check_scored`.
        """
        return self._require_fitted().calibration.probabilities(self.raw_score(features))

    def raw_score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 scores before calibration: logits, or c . j for `dot-plain` base. Errors as `score`."""
        fitted = self._require_fitted()
        check_features(features, self.row)
        check_scored(features, fitted.contract, fitted.dimension)
        return self._logits(fitted, visible(features, self.row))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and manifest (JSON) to `folder`; make the folder."""
        fitted = self._require_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / WEIGHTS, fitted.arrays())
        manifest = RankerManifest(
            predictor=self.predictor,
            row=self.row,
            seed=self.seed,
            contract=fitted.contract,
            dimension=fitted.dimension,
            slope=fitted.calibration.slope,
            intercept=fitted.calibration.intercept,
            sha256=hashes(folder, (WEIGHTS,)),
        )
        write_manifest(folder, manifest)

    @classmethod
    def load(cls, folder: Path) -> TwoTowerRanker:
        """Load the ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = read_manifest(folder, RankerManifest, (WEIGHTS,))
        if (manifest.predictor, manifest.row) not in DESIGNS:
            raise CheckpointError(f"{folder} holds a {manifest.predictor!r} ranker, not a two-tower one")
        ranker = cls(manifest.predictor, manifest.row, manifest.seed)
        blank = _FittedNetwork.blank(ranker._design, manifest, ranker.settings.dropout)
        arrays = read_arrays(folder / WEIGHTS, {name: array.shape for name, array in blank.arrays().items()})
        ranker._fitted = blank.filled(arrays)
        return ranker

    def _require_fitted(self) -> _FittedNetwork:
        if self._fitted is None:
            raise GirlError(f"this {self.predictor} {self.row} ranker is not trained yet; call fit() or load()")
        return self._fitted

    def _train(
        self,
        fitted: _FittedNetwork,
        features: PairFeatures,
        labels: np.ndarray,
        valid: PairFeatures,
        valid_labels: np.ndarray,
    ) -> None:
        """Train the network, and give it the weights of the epoch with the lowest valid log loss."""
        network, settings = fitted.network, self.settings
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self._design.learning_rate, weight_decay=settings.weight_decay
        )
        rng, targets = np.random.default_rng(self.seed), torch.from_numpy(labels.astype(np.float32))
        best_loss, best_epoch = log_loss_of_logits(self._logits(fitted, valid), valid_labels), 0
        best_weights = copy.deepcopy(network.state_dict())
        for epoch in range(1, settings.max_epochs + 1):
            network.train()
            for rows in _batches(rng.permutation(len(labels)), settings.batch_size):
                logits = network(self._design.inputs(fitted.scalers, features.take(rows)))
                loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            valid_loss = log_loss_of_logits(self._logits(fitted, valid), valid_labels)
            if valid_loss < best_loss:
                best_loss, best_epoch, best_weights = valid_loss, epoch, copy.deepcopy(network.state_dict())
            elif epoch - best_epoch >= settings.patience:
                break
        network.load_state_dict(best_weights)

    def _logits(self, fitted: _FittedNetwork, features: PairFeatures) -> np.ndarray:
        fitted.network.eval()
        logits = [np.zeros(0)]
        with one_thread(), torch.no_grad():
            for rows in _batches(np.arange(features.n_pairs), ROWS_AT_ONCE):
                batch: Tensor = fitted.network(self._design.inputs(fitted.scalers, features.take(rows)))
                logits.append(batch.numpy().astype(np.float64))
        return np.concatenate(logits)


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _start_linear_part(network: nn.Module, columns: np.ndarray, labels: np.ndarray) -> None:
    """Set the linear part to the logistic regression of the labels on its (n, w) columns."""
    weights = torch.from_numpy(fit_logistic(columns, labels).astype(np.float32))
    linear = cast(nn.Linear, network.linear)
    with torch.no_grad():
        linear.weight.copy_(weights[None, :-1])
        linear.bias.copy_(weights[-1:])
