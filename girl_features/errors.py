"""All errors that a caller may want to handle. Each is a GirlError, and its message says what to do next."""

from __future__ import annotations

import importlib
from types import ModuleType


def reason_of(error: BaseException, limit: int = 200) -> str:
    """Return the message of a library's error in one line of at most `limit` characters, to be quoted in ours."""
    return " ".join(str(error).split())[:limit]


class GirlError(Exception):
    """Base class of all errors that this package raises on purpose."""


class ConfigError(GirlError):
    """girl.yaml, a `--set` value or the file of `--json` is wrong."""


class DataError(GirlError):
    """A table cannot be read, or has the wrong columns or types."""


class RejectedRowsError(DataError):
    """Rows were rejected while `strict` was asked for."""

    def __init__(self, n_rejected: dict[str, int], where: str = "`girl check` lists them") -> None:
        """Name the tables; `n_rejected` has the number of rejected rows of each table that has any."""
        counts = " and ".join(f"{n} rows of {table}" for table, n in n_rejected.items())
        super().__init__(f"strict mode allows no rejected row, but {counts} were rejected; {where} with their reasons")


class EmptyWindowError(GirlError):
    """A time window holds no usable rows."""


class LeakageError(GirlError):
    """A feature would contain information from after the decision that it is meant to predict."""


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
        found = f"no contract {wanted!r} in the store {store!r} (it holds: {', '.join(known)})"
        if not known:
            found = f"the store {store!r} holds no contract yet"
        super().__init__(f"{found}; run `girl materialize` first")
        self.known = known


class AmbiguousContractError(UnknownContractError):
    """The given first digits of a fingerprint match several contracts."""

    def __init__(self, wanted: str, matches: list[str]) -> None:
        GirlError.__init__(self, f"{wanted!r} fits {len(matches)} contracts ({', '.join(matches)}); give more digits")
        self.known = matches


class InvalidVectorError(GirlError):
    """A NaN, infinite, all-zero or wrong-dimension vector."""


class ShapeError(GirlError):
    """Arrays have shapes that do not fit together."""


class UndefinedMetricError(GirlError):
    """A metric has no value on these labels and scores."""


class CheckpointError(GirlError):
    """A checkpoint is absent, incomplete, altered, or of a refused format."""


class GateError(GirlError):
    """A generator is below the quality gate, so nothing of it is published."""

    def __init__(self, failed: list[str], path: str) -> None:
        super().__init__(
            f"the generator is below the quality gate, so nothing was generated or published: {'; '.join(failed)}. "
            f"Train it longer or on more data, set `generator.base` to a pretrained model, or publish all the same "
            f"with `--anyway`. The measures are in {path}; delete that file to take them again"
        )


class TrainingError(GirlError):
    """Training cannot continue, because the loss is no longer a number."""


class StoreError(GirlError):
    """The feature store cannot be read or written."""


class MissingVectorsError(StoreError):
    """Some pairs have a CV or JD vector that is not in the store, or that was not known before their decision."""

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows  # row numbers of these pairs in the caller's decisions


class StoreLockedError(StoreError):
    """Another run is writing to the store."""


class DeadlineError(StoreError):
    """The online store did not answer within `read_deadline_ms`."""


class ClusterError(GirlError):
    """A worker of a cluster failed, or there is no cluster."""


class InterruptedRunError(GirlError):
    """An experiment was stopped on request; finished steps are kept."""

    def __init__(self) -> None:
        super().__init__("stopped on request; what is done is kept, and the same command goes on from here")


class GeneratorFailedError(GirlError):
    """A generator of an experiment could not be trained."""

    def __init__(self, data: str, arm: str, stage: str, error: GirlError) -> None:
        super().__init__(
            f"stage {stage} of generator {arm!r} on {data!r}: {error}. Fix that, or leave this generator out of "
            f"{data!r} with `data.{data}.without: [{arm}]` in the YAML of the experiment"
        )


class WorkerLostError(GirlError):
    """A process that fitted a ranker was killed from outside, usually because memory ran out."""

    def __init__(self) -> None:
        super().__init__(
            "a worker process was killed, most often because memory ran out; finished fits are kept: run the same "
            "command again, with --jobs 1 if it happens again"
        )


class JudgeEndpointError(GirlError):
    """The endpoint of the judge cannot be reached, refuses, or does not send a valid answer."""


class MissingExtraError(GirlError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {module!r}, which is not installed; "
            f"install it with `pip install 'girl-features[{extra}]'`"
        )


def require(module: str, extra: str) -> ModuleType:
    """Import the optional `module`, or raise an error that names the extra of this package to install.

    Raises:
        MissingExtraError: the module itself is absent. An error inside an installed module is raised as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(module, extra) from error
        raise
