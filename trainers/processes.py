"""Work shared by the processes of `accelerate launch`: each does its part of a batch, then all get the whole result.

With a single process the part is the whole batch, and nothing is sent. All processes see the same figures and take the
same decisions. Only the main process writes files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

from girl_features.config import PPOConfig
from girl_features.errors import ConfigError

T = TypeVar("T")


def _state() -> PartialState:
    return PartialState(cpu=not torch.cuda.is_available())  # without `cpu` it finds no other processes on a CPU


def is_main() -> bool:
    """True if this is the process that writes files."""
    return bool(_state().is_main_process)


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    _state().wait_for_everyone()


def n_processes() -> int:
    """Return the number of processes."""
    return int(_state().num_processes)


def check_divisible(settings: PPOConfig) -> None:
    """Raise ConfigError if the processes cannot share a batch and a minibatch evenly."""
    n = n_processes()
    if settings.batch_size % n or settings.minibatch_size % n:
        raise ConfigError(
            f"`ppo.batch_size` {settings.batch_size} and `ppo.minibatch_size` {settings.minibatch_size} must be "
            f"multiples of the {n} processes, which share them; change them, or start another number of processes"
        )


def local_places(n: int) -> list[int]:
    """Return this process's part of the places 0 to n - 1.

    Each process gets the same number of places. The last place is repeated where n is not a multiple of the processes.
    """
    n_local = -(-n // n_processes())
    first = _state().process_index * n_local
    return [min(first + k, n - 1) for k in range(n_local)]


def gather_from_all(part: T) -> list[T]:
    """Return the parts of all processes, in their order. Tensors in `part` must be on the CPU."""
    parts: list[T] = gather_object([part])
    return parts


@torch.no_grad()
def add_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes."""
    if n_processes() == 1:
        return
    total = reduce(torch.cat([t.detach().flatten() for t in tensors]), "sum")
    for tensor, part in zip(tensors, total.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
