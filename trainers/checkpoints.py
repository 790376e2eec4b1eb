"""Checkpoints of the PPO loop: written whole or not at all, hashed, and never a pickle.

A checkpoint is a folder `iteration-NNNNNN` of `tensors.safetensors` (weights and optimizer moments), `state.json`
and `hashes.json`. One that is altered, cut short or of another format is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from girl_features.errors import CheckpointError

KEPT = 2
_FILES = ("tensors.safetensors", "state.json")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What a run goes on from."""

    iteration: int  # the first one still to do
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(root: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` below `root` by one rename, and delete all but the newest KEPT; returns its folder."""
    final = root / f"iteration-{checkpoint.iteration:06d}"
    partial = root / f".{final.name}"
    for stale in (partial, final):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    save_file(tensors, partial / _FILES[0])
    (partial / _FILES[1]).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    hashes = {name: _sha256(partial / name) for name in _FILES}
    (partial / "hashes.json").write_text(json.dumps(hashes), encoding="utf-8")
    for path in partial.iterdir():
        _to_disk(path)
    partial.rename(final)
    _to_disk(root)
    for old in _folders(root)[KEPT:]:
        shutil.rmtree(old)
    return final


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Raises:
        CheckpointError: there are some and none can be used.
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
            f"no usable checkpoint in {root} ({'; '.join(problems)}); run `girl train ppo --no-resume` to start anew"
        )
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The moments of an Adam-like optimizer by name: `prefix.<parameter number>.<moment>`."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": torch.as_tensor(v) for i, own in state.items() for name, v in own.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` took; learning rates and other settings stay the optimizer's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}."):
            number, name = key.removeprefix(f"{prefix}.").split(".", 1)
            state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _load(folder: Path) -> Checkpoint:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(f"{folder} holds {', '.join(pickles)}, which may run code when loaded: refused")
    try:
        hashes = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
        for name in _FILES:
            if _sha256(folder / name) != hashes[name]:
                raise CheckpointError(f"{folder / name} is not what was written: altered or cut short")
        state = json.loads((folder / _FILES[1]).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is incomplete ({error})") from error
    return Checkpoint(int(folder.name.removeprefix("iteration-")), load_file(folder / _FILES[0]), state)


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("iteration-*"), reverse=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
