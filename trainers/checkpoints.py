"""Checkpoints of pretraining and PPO: written whole or not at all, with hashes, and without pickles.

A checkpoint is a folder `iteration-NNNNNN` with `tensors.safetensors` (weights and optimizer moments), `state.json`
and `hashes.json`. If the newest one is altered, cut short or of another format, the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from girl_features.errors import CheckpointError
from girl_features.store.files import fsync_folder, write_whole

KEPT = 2  # checkpoints
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_HASHES = "hashes.json"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """State of a run between two iterations."""

    iteration: int  # the next one
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` below `root` by one rename, delete all but the newest KEPT, and return its folder."""
    final = root / f"iteration-{checkpoint.iteration:06d}"
    partial = root / f".{final.name}"
    for stale in (partial, final):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, partial / _TENSORS)
    fsync_folder(partial / _TENSORS)  # syncs a single file too
    write_whole(partial / _STATE, json.dumps(checkpoint.state).encode())
    write_hashes(partial)
    partial.rename(final)
    fsync_folder(root)
    for old in _folders(root)[KEPT:]:
        shutil.rmtree(old)
    return final


def load_newest(root: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None if there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    problems = []
    for folder in _folders(root):
        try:
            return _load(folder)
        except CheckpointError as error:
            _log.warning("%s; trying the one before it", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"no usable checkpoint in {root} ({'; '.join(problems)}); "
            f"run `girl train ppo --no-resume` to start from the beginning"
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """Return the moments of an Adam-like optimizer, named `prefix.<parameter number>.<moment>`."""
    tensors = {}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"{prefix}.{number}.{name}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Restore the moments that `optimizer_tensors` returned. Learning rates and other settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in with_prefix(tensors, prefix).items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors named `prefix.<rest>`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


@torch.no_grad()
def load_weights(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the parameters of the same names."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def write_hashes(folder: Path) -> None:
    """Write the SHA-256 of every file in `folder` to hashes.json; only a folder with this file counts as whole."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _HASHES]
    hashes = {str(path.relative_to(folder)): _sha256(path) for path in paths}
    write_whole(folder / _HASHES, json.dumps(hashes).encode())


def check_hashes(folder: Path) -> None:
    """Check the files in `folder` against its hashes.json.

    Raises:
        CheckpointError: a file is missing or altered, or there are no hashes.
    """
    try:
        hashes = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
        altered = [name for name, digest in hashes.items() if _sha256(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder} is incomplete ({error})") from error
    if altered:
        raise CheckpointError(f"{folder / altered[0]} is altered or cut short since it was written")
    if not hashes:
        raise CheckpointError(f"{folder} is incomplete (its {_HASHES} is empty)")


def _load(folder: Path) -> Checkpoint:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(f"{folder} holds {', '.join(pickles)}, which may run code when loaded: refused")
    check_hashes(folder)
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(int(folder.name.removeprefix("iteration-")), load_file(folder / _TENSORS), state)


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("iteration-*"), reverse=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
