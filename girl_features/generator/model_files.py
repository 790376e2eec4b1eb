"""Files of a model's folder: complete, in safetensors, and at the right place."""

from __future__ import annotations

import json
from pathlib import Path

from girl_features.errors import CheckpointError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl")
_LFS_POINTER = b"version https://git-lfs"


def check_model_files(folder: Path) -> None:
    """Check that `folder` holds the safetensors weights of a model, every shard of them.

    Raises:
        CheckpointError: it does not; the message says what it holds instead, and what to do.
    """
    weights = [path for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS]
    if not weights:
        raise CheckpointError(f"{folder} must hold .safetensors weights, found {_found_instead(folder)}")
    if not (folder / _WHOLE).is_file() and (folder / _INDEX).is_file():
        missing = sorted(name for name in _shards(folder / _INDEX) if not (folder / name).is_file())
        if missing:
            raise CheckpointError(
                f"{folder} lacks {', '.join(missing)}, which its {_INDEX} names: bring the missing files, or download "
                f"the model again"
            )
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise CheckpointError(
                    f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` in {folder}"
                )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights in `folder` are loaded from: one file, or the shards of an index."""
    if not (folder / _WHOLE).is_file() and (folder / _INDEX).is_file():
        return [folder / name for name in sorted(_shards(folder / _INDEX))]
    whole = [path for path in (folder / _WHOLE, folder / ADAPTER_WEIGHTS) if path.is_file()]
    return whole[:1] or sorted(folder.glob("*.safetensors"))


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} cannot be read ({error}); download the model again") from error


def _found_instead(folder: Path) -> str:
    """Return in words what a folder without weights holds, and the next step."""
    if (folder / ADAPTER_WEIGHTS).is_file():
        return "only those of a LoRA adapter; merge it into its base (`merge_and_unload` of peft), and give that folder"
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        return f"only {', '.join(pickled)}, which may run code when loaded; take a model with safetensors weights"
    files = sorted(str(path) for path in folder.glob("*.gguf"))
    if files:
        return f"only files in the format of llama.cpp; give the path of one of them instead: {', '.join(files)}"
    inner = sorted(str(path.parent) for path in folder.glob("*/config.json") if [*path.parent.glob("*.safetensors")])
    if inner:
        return (
            f"none, but there are models in folders below it; give the path of one of them instead: {', '.join(inner)}"
        )
    return "none"
