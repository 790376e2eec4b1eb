"""Trained generators and reward models on disk.

A checkpoint is a Hugging Face folder with safetensors weights and one JSON file, its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.contract import sha256_of_files
from girl_features.errors import CheckpointError, require
from girl_features.generator.hub_errors import hub_problem
from girl_features.generator.model_files import ADAPTER_WEIGHTS, check_model_files, weight_files

RECORD_NAME = "girl_generator.json"
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # pickled weights are never downloaded
_WANTED = {"allow_patterns": list(_MODEL_FILES), "ignore_patterns": ["*/*", "consolidated*.safetensors"]}
REWARD_RECORD_NAME = "girl_reward_model.json"
_COMMANDS = {RECORD_NAME: "girl train sft", REWARD_RECORD_NAME: "girl train reward"}  # that write the records


class GeneratorRecord(BaseModel):
    """Origin and training data of a generator or a reward model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str  # "sft", "reward", "ppo", or "untuned"
    base: str  # "tiny", or the path or name of the model that was tuned
    prompt_version: str
    max_cv_tokens: int
    trained_until: datetime  # UTC, exclusive end of the last training window
    n_pairs: int  # training pairs; for the stage "ppo", CVs
    inputs_sha256: str  # of training data and settings; training on the same inputs again is skipped
    weights_sha256: str
    adapter_sha256: str | None
    created_at: datetime
    settings: dict[str, object]
    metrics: dict[str, float]
    versions: dict[str, str]
    precision: str | None = None  # of the arithmetic in training, float32 or bfloat16; None: not recorded
    parents: dict[str, str] = {}  # stage -> SHA-256 of the weights that training started from or used
    notes: tuple[str, ...] = ()  # remarks for readers of the metrics

    def training_text(self) -> str:
        """Return the number of training examples and the metrics in words."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"{self.n_pairs} {'CVs' if self.stage == 'ppo' else 'pairs'}; {figures}"


def trained_base_hash(record: Mapping[str, Any]) -> str | None:
    """Return the hash of the base's weights that a record names; None if it names none, as for `tiny`."""
    if record.get("adapter_sha256"):
        return str(record["weights_sha256"])
    base = dict(record.get("parents") or {}).get("base")
    return None if base is None else str(base)


def base_folder(name: str | Path) -> Path:
    """Return the folder of a base model: `name` itself, or the snapshot of that name from the Hugging Face hub.

    Raises:
        CheckpointError: `name` is not a folder, and neither the hub nor its local cache has it.
    """
    if Path(name).is_dir():
        return Path(name)
    return download(str(name))


def cached_base(name: str) -> Path | None:
    """Return the snapshot of a model of the hub in the hub's cache on this machine; None if it is not there."""
    hub = require("huggingface_hub", "generate")
    try:
        return Path(hub.snapshot_download(name, **_WANTED, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or not whole; or not the name of a model
        return None


def download(name: str) -> Path:
    """Bring a model from the Hugging Face hub into the hub's cache, and return where it lies there.

    Raises:
        CheckpointError: neither the hub nor its local cache has it, or not as safetensors.
    """
    hub = require("huggingface_hub", "generate")
    try:
        folder = Path(hub.snapshot_download(name, **_WANTED))
        others = [] if [*folder.glob("*.safetensors")] else hub.list_repo_files(name)
    except Exception as error:  # the hub client has no common base class for its errors
        reason, remedy = hub_problem(name, error)
        raise CheckpointError(
            f"the base model {name!r} is not a folder and cannot be downloaded ({reason}): {remedy}; or set "
            f"`generator.base` to a local folder, or to `tiny`"
        ) from error
    if others:
        raise CheckpointError(f"{name!r} has no safetensors weights on the hub; {_other_weights(name, others)}")
    return folder


def _other_weights(name: str, files: Sequence[str]) -> str:
    """Return in words what a model of the hub holds in the place of safetensors weights, and the next step."""
    gguf = sorted(file for file in files if file.endswith(".gguf"))
    if gguf:
        return f"download one of its GGUF files, as with `hf download {name} {gguf[0]}`, and give its path"
    if any(file.endswith((".bin", ".pt", ".pth")) for file in files):
        return "its weights are pickled, and may run code when loaded; take another model"
    return "take another model"


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 of all files in `folder` that are loaded: weights, config, tokenizer and chat template.

    Raises:
        CheckpointError: there are no .safetensors weights, or not all of them. Pickled weights are refused.
    """
    check_model_files(folder)
    return sha256_of_files(loaded_files(folder))


def adapter_hash(folder: Path) -> str:
    """Return the SHA-256 of the LoRA adapter in `folder`, with its settings and tokenizer.

    Raises:
        CheckpointError: there is no adapter_model.safetensors.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has an adapter_config.json but no {ADAPTER_WEIGHTS}")
    return sha256_of_files(loaded_files(folder))


def loaded_files(folder: Path) -> list[Path]:
    """Return the files in `folder` that a model is loaded from, in order of their names."""
    return sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.name not in _COMMANDS})


def n_parameters(folder: Path) -> int:
    """Return the number of parameters of the model in `folder`, of which only the headers of the files are read.

    For an adapter, that is the number of parameters of its base model.

    Raises:
        CheckpointError: a file is damaged.
    """
    folder = model_folder(folder)
    safetensors, total = require("safetensors", "generate"), 0
    for path in weight_files(folder):
        try:
            with safetensors.safe_open(path, framework="np") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or cut short ({error})") from error
    return total


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the adapter in `folder`, from its adapter_config.json.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return {**settings, "base_model_name_or_path": str(settings["base_model_name_or_path"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the adapter_config.json in {folder} cannot be read ({error})") from error


def adapter_base(folder: Path) -> Path:
    """Return the folder of the base model of the adapter in `folder`.

    If it is no longer where it was in training, it is looked for in the workspace, which may have been moved, and then
    under the name that the training record gives.
    """
    name = adapter_settings(folder)["base_model_name_or_path"]
    moved = folder.parent.parent / "bases" / Path(name).name
    if not Path(name).is_dir() and moved.is_dir():
        return moved
    if Path(name).is_absolute() and not Path(name).is_dir():
        name = str(peek_record(folder).get("base", name))
    return base_folder(name)


def model_folder(folder: Path) -> Path:
    """Return the folder of the whole model: that of its base if `folder` holds an adapter, else `folder`."""
    return adapter_base(folder) if is_adapter(folder) else folder


def is_adapter(folder: Path) -> bool:
    """True if the checkpoint in `folder` is a LoRA adapter."""
    return (folder / "adapter_config.json").is_file()


def read_record(folder: Path, record_name: str = RECORD_NAME) -> GeneratorRecord:
    """Read the record of a trained model, and check that its hash matches the weights.

    Raises:
        CheckpointError: the record is missing or unreadable, or the weights have changed since it was written.
    """
    path, command = folder / record_name, _COMMANDS[record_name]
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {record_name}; train with `{command}`, or give its folder")
    try:
        record = GeneratorRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged, or of another version; train again with `{command}`") from error
    if is_adapter(folder):
        actual, expected = adapter_hash(folder), record.adapter_sha256
        _check_base(folder, record, command)
    else:
        actual, expected = weights_hash(folder), record.weights_sha256
    if actual != expected:
        raise CheckpointError(
            f"the weights in {folder} hash to {actual[:12]}, but their record says {str(expected)[:12]}: they were "
            f"altered or cut short; delete the folder and run `{command}`"
        )
    return record


def _check_base(folder: Path, record: GeneratorRecord, command: str) -> None:
    base = adapter_base(folder)
    if weights_hash(base) != record.weights_sha256:
        raise CheckpointError(
            f"the weights in {base} are not those that the adapter in {folder} was trained on: put the old ones back, "
            f"or run `{command}` on the new ones"
        )


def write_record(folder: Path, record: GeneratorRecord, record_name: str = RECORD_NAME) -> None:
    """Write `record` to `folder`."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
    (folder / record_name).write_text(text + "\n", encoding="utf-8")


def trained_generators(generators_dir: Path, stage: str | None = None) -> list[Path]:
    """Return the folders of finished generators, of one training stage or of all, newest first."""
    folders = _trained(generators_dir, RECORD_NAME)
    return [folder for folder in folders if stage is None or peek_record(folder).get("stage") == stage]


def trained_reward_models(rewards_dir: Path) -> list[Path]:
    """Return the folders of finished reward models, newest first."""
    return _trained(rewards_dir, REWARD_RECORD_NAME)


def _trained(parent: Path, record_name: str) -> list[Path]:
    folders = [path.parent for path in parent.glob(f"[!.]*/{record_name}")]  # unfinished runs are in hidden folders
    return sorted(folders, key=lambda f: (str(peek_record(f, record_name).get("created_at", "")), f.name), reverse=True)


def peek_record(folder: Path, record_name: str = RECORD_NAME) -> dict[str, object]:
    """Return the fields of a record without checking the weights. The dict is empty if the record is unreadable."""
    try:
        fields = json.loads((folder / record_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # read_record raises the error when this checkpoint is used
    return fields if isinstance(fields, dict) else {}
