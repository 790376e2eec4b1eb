"""Two-tower rankers in torch: the paper's predictors (GIRL, eq. 10-15) and the same with interaction terms.

`mlp-plain` and `dot-plain` are the paper's. On vectors of a good encoder the cosine of CV and JD says more than an
MLP of both finds on some thousand pairs, so `mlp` and `dot` add products and cosines to them; see FORMS.

All are trained on the log loss of a match with AdamW, stopped early by the valid part's log loss (of the weights
before the first step, too), and Platt-scaled on the valid part. So is `dot-plain` base, which the paper leaves
untrained and uncalibrated: without that its log loss could not be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from girl_features.errors import CheckpointError, ConfigError, GirlError, require
from girl_features.integrations.rankers.pair_inputs import (
    ROWS_AT_ONCE,
    ColumnScaler,
    Row,
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
from girl_features.vectors.regression import Calibration, fit_calibration, fit_logistic, log_loss_of_logits

require("torch", "rank")
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from girl_features.integrations.rankers import two_tower_networks as networks  # noqa: E402
from girl_features.torch_threads import one_thread  # noqa: E402

WEIGHTS = "ranker.safetensors"
_PARTS = ("mlp", "jd_tower", "linear")  # names of Form.parts in the file


class Form(NamedTuple):
    """One network and the blocks of columns (see pair_inputs) that each of its parts reads."""

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


_COSINES = ("cos_cv_jd", "cos_generated_jd_jd", "cos_cv_generated_jd", "tier")
_PRODUCTS = ("cv_times_jd", "generated_jd_times_jd")

FORMS: dict[tuple[str, Row], Form] = {
    ("mlp-plain", "base"): Form(networks.PlainMLP, ("cv", "jd")),  # eq. 10
    ("mlp-plain", "enhanced"): Form(networks.PlainMLP, ("cv", "jd", "generated_jd")),  # eq. 13
    ("dot-plain", "base"): Form(networks.PlainDot, ()),  # eq. 11
    ("dot-plain", "enhanced"): Form(networks.PlainDotTower, ("cv", "generated_jd")),  # eq. 14, 15
    ("mlp", "base"): Form(networks.InteractionMLP, ("cv", "jd", "cv_times_jd", "cos_cv_jd"), linear=("cos_cv_jd",)),
    ("mlp", "enhanced"): Form(
        networks.InteractionMLP, ("cv", "jd", "generated_jd", *_PRODUCTS, *_COSINES), linear=_COSINES
    ),
    ("dot", "base"): Form(networks.ResidualDot, ("cv",), ("jd",), ("cos_cv_jd",), 64, 3e-4),
    ("dot", "enhanced"): Form(networks.ResidualDot, ("cv", "generated_jd"), ("jd",), _COSINES, 64, 3e-4),
}


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks are trained; the defaults suit some thousand pairs of 384-d vectors."""

    dropout: float = 0.5
    weight_decay: float = 1e-2
    batch_size: int = 128
    max_epochs: int = 60
    patience: int = 6  # epochs without a lower valid log loss


class _Fitted(NamedTuple):
    network: nn.Module
    scalers: tuple[ColumnScaler, ...]  # of Form.parts
    calibration: Calibration
    contract: str
    dimension: int


class TwoTowerRanker:
    """A Ranker around one network of FORMS. Same seed, data and machine: same scores."""

    def __init__(self, predictor: str, row: Row, seed: int = 0, settings: TrainingSettings | None = None) -> None:
        """Raises ConfigError where FORMS has no such predictor and row."""
        if (predictor, row) not in FORMS:
            known = ", ".join(f"{name} {row}" for name, row in FORMS)
            raise ConfigError(f"no two-tower ranker {predictor!r} {row!r}; known are: {known}")
        self.predictor, self.row, self.seed = predictor, row, seed
        self.settings = settings or TrainingSettings()
        self._form = FORMS[predictor, row]
        self._fitted: _Fitted | None = None

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train on `features` and (n,) bool `labels`; stop early and calibrate on the valid part.

        Raises:
            ShapeError: a part is empty, of one class, or does not line up.
            InvalidVectorError: a NaN, infinite, all-zero or wrong-dimension vector.
            ContractMismatchError: the two parts are of different contracts.
        """
        check_training_parts(features, labels, valid_features, valid_labels, self.row)
        features, valid_features = visible(features, self.row), visible(valid_features, self.row)
        form, dimension = self._form, features.cv.shape[1]
        scalers = tuple(fit_scaler(features, blocks) for blocks in form.parts)
        # weights and dropout draw from torch's global generator
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _build(form, dimension, self.settings.dropout)
            fitted = _Fitted(network, scalers, Calibration(1.0, 0.0), features.contract, dimension)
            if form.linear:
                _start_linear_part(network, scaled_columns(features, form.linear, scalers[2]), labels)
            if any(True for _ in network.parameters()):
                self._train(fitted, features, labels, valid_features, valid_labels)
        calibration = fit_calibration(self._logits(fitted, valid_features), valid_labels)
        self._fitted = fitted._replace(calibration=calibration)

    def score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1).

        Raises:
            ContractMismatchError: the features are of another contract than those trained on.
            InvalidVectorError: a NaN, infinite, all-zero or wrong-dimension vector, its row named.
            ShapeError: arrays do not line up.
        """
        fitted = self._require_fitted()
        return fitted.calibration.probabilities(self.raw_score(features))

    def raw_score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 scores before calibration: logits, or c . j for `dot-plain` base. Errors as `score`."""
        fitted = self._require_fitted()
        check_features(features, self.row)
        check_scored(features, fitted.contract, fitted.dimension)
        return self._logits(fitted, visible(features, self.row))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and manifest (JSON) to `folder`, made if need be."""
        fitted = self._require_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / WEIGHTS, _arrays(fitted))
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
        """The ranker that `save` wrote to `folder`.

        Raises:
            CheckpointError: absent, incomplete, altered, or not of this format.
        """
        manifest = read_manifest(folder, RankerManifest, (WEIGHTS,))
        if (manifest.predictor, manifest.row) not in FORMS:
            raise CheckpointError(f"{folder} holds a {manifest.predictor!r} ranker, not a two-tower one")
        ranker = cls(manifest.predictor, manifest.row, manifest.seed)
        blank = _blank(ranker._form, manifest, ranker.settings.dropout)
        arrays = read_arrays(folder / WEIGHTS, {name: array.shape for name, array in _arrays(blank).items()})
        ranker._fitted = _filled(blank, arrays)
        return ranker

    def _require_fitted(self) -> _Fitted:
        if self._fitted is None:
            raise GirlError(f"this {self.predictor} {self.row} ranker is not trained yet; call fit() or load()")
        return self._fitted

    def _train(
        self, fitted: _Fitted, features: PairFeatures, labels: np.ndarray, valid: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Leave the network with the weights of the epoch whose valid log loss was lowest."""
        network, settings = fitted.network, self.settings
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self._form.learning_rate, weight_decay=settings.weight_decay
        )
        rng, targets = np.random.default_rng(self.seed), torch.from_numpy(labels.astype(np.float32))
        best_loss, best_epoch, best = (
            log_loss_of_logits(self._logits(fitted, valid), valid_labels),
            0,
            _snapshot(network),
        )
        for epoch in range(1, settings.max_epochs + 1):
            network.train()
            for rows in _batches(rng.permutation(len(labels)), settings.batch_size):
                logits = network(_inputs(self._form, fitted.scalers, features.take(rows)))
                loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            valid_loss = log_loss_of_logits(self._logits(fitted, valid), valid_labels)
            if valid_loss < best_loss:
                best_loss, best_epoch, best = valid_loss, epoch, _snapshot(network)
            elif epoch - best_epoch >= settings.patience:
                break
        network.load_state_dict(best)

    def _logits(self, fitted: _Fitted, features: PairFeatures) -> np.ndarray:
        fitted.network.eval()
        logits = [np.zeros(0)]
        with one_thread(), torch.no_grad():
            for rows in _batches(np.arange(features.n_pairs), ROWS_AT_ONCE):
                batch = _inputs(self._form, fitted.scalers, features.take(rows))
                logits.append(fitted.network(batch).numpy().astype(np.float64))
        return np.concatenate(logits)


def _build(form: Form, dimension: int, dropout: float) -> nn.Module:
    mlp, jd_tower, linear = (columns_width(blocks, dimension) for blocks in form.parts)
    network: nn.Module = form.network(networks.Widths(dimension, mlp, jd_tower, linear, form.hidden), dropout)
    return network


def _inputs(form: Form, scalers: tuple[ColumnScaler, ...], features: PairFeatures) -> networks.NetworkInputs:
    scaled = (scaled_columns(features, blocks, scaler) for blocks, scaler in zip(form.parts, scalers, strict=True))
    vectors = (features.cv.astype(np.float32), features.jd.astype(np.float32))
    return networks.NetworkInputs(*(torch.from_numpy(array) for array in (*vectors, *scaled)))


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


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def _arrays(fitted: _Fitted) -> dict[str, np.ndarray]:
    """Everything learned but the calibration, by name: what goes into the safetensors file."""
    arrays = {f"network.{name}": value.numpy() for name, value in fitted.network.state_dict().items()}
    for part, scaler in zip(_PARTS, fitted.scalers, strict=True):
        arrays |= {f"{part}.mean": scaler.mean, f"{part}.inverse_std": scaler.inverse_std}
    return arrays


def _blank(form: Form, manifest: RankerManifest, dropout: float) -> _Fitted:
    """The right shapes, with fresh weights."""
    widths = (columns_width(blocks, manifest.dimension) for blocks in form.parts)
    scalers = tuple(ColumnScaler(np.zeros(n, np.float32), np.zeros(n, np.float32)) for n in widths)
    with torch.random.fork_rng(devices=[]):
        network = _build(form, manifest.dimension, dropout)
    calibration = Calibration(manifest.slope, manifest.intercept)
    return _Fitted(network, scalers, calibration, manifest.contract, manifest.dimension)


def _filled(blank: _Fitted, arrays: dict[str, np.ndarray]) -> _Fitted:
    state = {name: torch.from_numpy(arrays[f"network.{name}"]) for name in blank.network.state_dict()}
    blank.network.load_state_dict(state)
    scalers = tuple(ColumnScaler(arrays[f"{part}.mean"], arrays[f"{part}.inverse_std"]) for part in _PARTS)
    return blank._replace(scalers=scalers)
