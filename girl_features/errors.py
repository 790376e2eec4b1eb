"""Every error a caller may want to handle.

GirlError
├── ConfigError               girl.yaml, --set or --json is wrong
├── DataError                 a table cannot be read or has the wrong columns or types
│   └── RejectedRowsError     rows were rejected and `strict` was asked for
├── EmptyWindowError          a time window holds no usable rows
├── LeakageError              a feature would know something later than the label it predicts
├── ContractMismatchError     vectors and ranker were made by different contracts
├── UnknownContractError      no such contract in the store
│   └── AmbiguousContractError    the first digits given fit several
├── InvalidVectorError        NaN, infinite, all-zero or wrong-dimension vector
├── ShapeError                arrays that should line up do not
├── UndefinedMetricError      a metric has no value on these labels and scores
├── CheckpointError           a checkpoint is absent, incomplete, altered or of a refused format
├── TrainingError             a loss that is no longer a number
├── StoreError                the feature store cannot be read or written
│   ├── StoreLockedError      another run is writing to it
│   ├── MissingVectorsError   pairs whose CV or JD vector was not known by then
│   └── DeadlineError         the online store took longer than it may
├── ClusterError              a worker of a cluster failed, or there is no cluster
├── JudgeEndpointError        the judge's endpoint cannot be reached, refuses, or sends no valid answer
└── MissingExtraError         an optional dependency of ours is not installed
"""

from __future__ import annotations

import importlib
from types import ModuleType


class GirlError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigError(GirlError):
    """girl.yaml, a `--set` value or the file of `--json` is wrong."""


class DataError(GirlError):
    """A table cannot be read, or has the wrong columns or types."""


class RejectedRowsError(DataError):
    """Rows were rejected while `strict` was asked for."""

    def __init__(self, n_rejected: int, n_tables: int) -> None:
        super().__init__(
            f"{n_rejected} rows in {n_tables} table(s) were rejected and strict mode allows none; "
            f"`girl check` lists them with their reasons"
        )


class EmptyWindowError(GirlError):
    """A time window holds no usable rows."""


class LeakageError(GirlError):
    """A feature would know something later than the label it is meant to predict."""


class ContractMismatchError(GirlError):
    """Vectors and ranker were made by different contracts."""

    def __init__(self, stored: str, wanted: str) -> None:
        super().__init__(
            f"the vectors are of contract {stored!r}, but this ranker was trained on {wanted!r}; "
            f"materialize {wanted!r} or retrain the ranker on {stored!r}"
        )


class UnknownContractError(GirlError):
    """No such contract in the store."""

    def __init__(self, wanted: str, known: list[str], store: str) -> None:
        held = ", ".join(known) if known else "none yet"
        super().__init__(
            f"no contract {wanted!r} in the store {store!r} (it holds: {held}); run `girl materialize` first"
        )
        self.known = known


class AmbiguousContractError(UnknownContractError):
    """The first digits of a fingerprint fit several contracts."""

    def __init__(self, wanted: str, matches: list[str]) -> None:
        GirlError.__init__(self, f"{wanted!r} fits {len(matches)} contracts ({', '.join(matches)}); give more digits")
        self.known = matches


class InvalidVectorError(GirlError):
    """A NaN, infinite, all-zero or wrong-dimension vector."""


class ShapeError(GirlError):
    """Arrays that should line up do not."""


class UndefinedMetricError(GirlError):
    """A metric has no value on these labels and scores."""


class CheckpointError(GirlError):
    """A checkpoint is absent, incomplete, altered, or of a refused format."""


class TrainingError(GirlError):
    """Training cannot go on: its loss is no longer a number."""


class StoreError(GirlError):
    """The feature store cannot be read or written."""


class MissingVectorsError(StoreError):
    """Pairs whose CV or JD vector is not in the store, or was not known before their decision."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows  # of the decisions asked for


class StoreLockedError(StoreError):
    """Another run is writing to the store."""


class DeadlineError(StoreError):
    """The online store took longer to answer than `read_deadline_ms` allows."""


class ClusterError(GirlError):
    """A worker of a cluster failed, or there is no cluster."""


class JudgeEndpointError(GirlError):
    """The judge's endpoint cannot be reached, refuses the request, or sends no valid answer."""


class MissingExtraError(GirlError):
    """An optional dependency of ours is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {module!r}, which is not installed; "
            f"install it with `pip install 'girl-features[{extra}]'`"
        )


def require(module: str, extra: str) -> ModuleType:
    """Import the optional `module`, or name the extra of ours that brings it.

    Raises:
        MissingExtraError: the module itself is absent. Failures inside an installed module pass through.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(module, extra) from error
        raise
