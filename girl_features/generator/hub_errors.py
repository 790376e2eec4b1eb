"""Errors of the Hugging Face hub's client in words, with the step that helps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from girl_features.errors import reason_of

_NO_ACCESS = (401, 403)  # HTTP status codes


class HubProblem(NamedTuple):
    """Why the hub did not give a model."""

    reason: str
    remedy: str


def hub_problem(name: str, error: Exception) -> HubProblem:
    """Return why the hub did not give the model `name`, and what to do, from an error that its client raised."""
    from huggingface_hub import errors

    causes = list(_causes(error))
    statuses = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]

    def is_a(*kinds: type) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_a(errors.HFValidationError):
        return HubProblem("no such folder exists, and no model on the hub can have this name", "correct the path")
    if is_a(errors.GatedRepoError):
        return HubProblem(
            "it is gated: its owner wants a licence to be accepted first",
            f"accept it on https://huggingface.co/{name}, and run `hf auth login` with a token of that account",
        )
    if is_a(errors.RepositoryNotFoundError):
        return HubProblem(
            "the hub has no such model, or it is private", "correct the name, or run `hf auth login` if it is yours"
        )
    if any(status in _NO_ACCESS for status in statuses):
        return HubProblem("the hub refuses access", "run `hf auth login` with a token that may read this model")
    if is_a(errors.OfflineModeIsEnabled):
        return HubProblem("HF_HUB_OFFLINE is set, and the hub's cache on this machine lacks it", "unset HF_HUB_OFFLINE")
    if is_a(errors.LocalEntryNotFoundError, ConnectionError) or any(map(_is_of_http, causes)):
        return HubProblem(
            "the hub does not answer, and its cache on this machine lacks it",
            f"run `hf download {name}` where there is a connection, and copy the folder here",
        )
    return HubProblem(f"{type(error).__name__}: {reason_of(error)}", "try again")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_http(error: BaseException) -> bool:
    """True for an error of the library that carries the hub's connections."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests")
