"""What `accelerate launch` with several processes needs: each takes its part of a batch, and all end up with the whole.

With one process a part is the whole, and nothing is sent. Every process takes the same decisions, since all see the
same figures; only the main one writes files.
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
    return PartialState(cpu=not torch.cuda.is_available())  # told so, it finds other processes on CPUs too


def is_main() -> bool:
    """Whether this is the process that writes files."""
    return bool(_state().is_main_process)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    _state().wait_for_everyone()


def n_processes() -> int:
    """How many there are."""
    return int(_state().num_processes)


def check_divisible(settings: PPOConfig) -> None:
    """Raise ConfigError where the processes cannot share a batch and a minibatch evenly."""
    n = n_processes()
    if settings.batch_size % n or settings.minibatch_size % n:
        raise ConfigError(
            f"`ppo.batch_size` {settings.batch_size} and `ppo.minibatch_size` {settings.minibatch_size} have to be "
            f"multiples of the {n} processes, which share them; change them, or start another number of processes"
        )


def own_places(n: int) -> list[int]:
    """This process's run of the places 0 .. n - 1; as many for each process, the last place filling up."""
    each = -(-n // n_processes())
    first = _state().process_index * each
    return [min(first + k, n - 1) for k in range(each)]


def own_rows(rows: Tensor) -> Tensor:
    """This process's part of the (m,) rows of a minibatch, m a multiple of the number of processes."""
    own: Tensor = rows.tensor_split(n_processes())[_state().process_index]
    return own


def from_all(own: T) -> list[T]:
    """What each process passed, in their order. Tensors have to be on the CPU."""
    found: list[T] = gather_object([own])
    return found


@torch.no_grad()
def add_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if n_processes() == 1:
        return
    total = reduce(torch.cat([t.detach().flatten() for t in tensors]), "sum")
    for tensor, part in zip(tensors, total.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
