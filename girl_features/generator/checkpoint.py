"""A trained generator or reward model on disk: a Hugging Face folder (safetensors) plus a JSON file, its record."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.contract import sha256_of_files
from girl_features.errors import CheckpointError, require

RECORD_NAME = "girl_generator.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # no pickle is even fetched
REWARD_RECORD_NAME = "girl_reward_model.json"
_NOT_LOADED = {RECORD_NAME, REWARD_RECORD_NAME}
_COMMANDS = {RECORD_NAME: "girl train sft", REWARD_RECORD_NAME: "girl train reward"}


class GeneratorRecord(BaseModel):
    """Where a generator or a reward model came from and what it has seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str  # "sft", "reward", "ppo", or "untuned"
    base: str  # "tiny", or the path or name of the model that was tuned
    prompt_version: str
    max_cv_tokens: int
    trained_until: datetime  # exclusive end of the last window seen, UTC
    n_pairs: int  # CVs, where the stage is "ppo"
    inputs_sha256: str  # over training data and settings: the same inputs need no second training
    weights_sha256: str
    adapter_sha256: str | None
    created_at: datetime
    settings: dict[str, object]
    metrics: dict[str, float]
    versions: dict[str, str]
    parents: dict[str, str] = {}  # stage -> hash of the weights this one was made from
    notes: tuple[str, ...] = ()  # what a reader of the metrics has to know


def base_folder(name: str | Path) -> Path:
    """The folder of a base model: `name` where it is one, else its snapshot from the hub or the hub's cache.

    Raises:
        CheckpointError: it is neither a folder nor to be had.
    """
    if Path(name).is_dir():
        return Path(name)
    hub = require("huggingface_hub", "generate")
    try:
        return Path(hub.snapshot_download(str(name), allow_patterns=list(_MODEL_FILES)))
    except Exception as error:  # the hub client raises a dozen unrelated types for "not reachable"
        raise CheckpointError(
            f"base model {str(name)!r} is no folder and the hub did not give it ({type(error).__name__}); "
            f"set `generator.base` to a local folder, or to `tiny`"
        ) from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of everything in `folder` that the model is loaded from: weights, shape, tokenizer, chat template.

    Raises:
        CheckpointError: there are no .safetensors weights; pickled ones are named as refused.
    """
    if not any(p.name != ADAPTER_WEIGHTS for p in folder.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which may run code when loaded" if pickled else "none"
        raise CheckpointError(f"{folder} should hold .safetensors weights, found {found}")
    return sha256_of_files(_loaded_files(folder))


def adapter_hash(folder: Path) -> str:
    """SHA-256 of the LoRA adapter in `folder`, its settings and its tokenizer.

    Raises:
        CheckpointError: there is no adapter_model.safetensors.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{folder} has an adapter_config.json but no {ADAPTER_WEIGHTS}")
    return sha256_of_files(_loaded_files(folder))


def _loaded_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.name not in _NOT_LOADED})


def weights_size(folder: Path) -> int:
    """Bytes of the weights in `folder`; of its base's, where it is an adapter."""
    if is_adapter(folder):
        folder = adapter_base(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What the adapter in `folder` says of itself.

    Raises:
        CheckpointError: its adapter_config.json cannot be read.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return {**settings, "base_model_name_or_path": str(settings["base_model_name_or_path"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the adapter_config.json in {folder} cannot be read ({error})") from error


def adapter_base(folder: Path) -> Path:
    """Folder of the model that the adapter in `folder` stands on."""
    return base_folder(adapter_settings(folder)["base_model_name_or_path"])


def is_adapter(folder: Path) -> bool:
    """Whether the checkpoint is a LoRA adapter over its record's base."""
    return (folder / "adapter_config.json").is_file()


def read_record(folder: Path, record_name: str = RECORD_NAME) -> GeneratorRecord:
    """The record of a trained model, after checking that the weights are those it was written for.

    Raises:
        CheckpointError: no record, an unreadable one, or weights that have changed since.
    """
    path, command = folder / record_name, _COMMANDS[record_name]
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {record_name}; train with `{command}`, or give its folder")
    try:
        record = GeneratorRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again with `{command}`") from error
    if is_adapter(folder):
        found, wanted = adapter_hash(folder), record.adapter_sha256
    else:
        found, wanted = weights_hash(folder), record.weights_sha256
    if found != wanted:
        raise CheckpointError(
            f"the weights in {folder} hash to {found[:12]}, but their record says {str(wanted)[:12]}: they were "
            f"altered or cut short; delete the folder and run `{command}`"
        )
    return record


def write_record(folder: Path, record: GeneratorRecord, record_name: str = RECORD_NAME) -> None:
    """Write the record into `folder`."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
    (folder / record_name).write_text(text + "\n", encoding="utf-8")


def trained_generators(generators_dir: Path, stage: str | None = None) -> list[Path]:
    """Folders of complete generators, newest first; unfinished runs lie in hidden folders and do not count.

    Args:
        generators_dir: where they lie.
        stage: only those of this stage.
    """
    folders = _trained(generators_dir, RECORD_NAME)
    return [f for f in folders if stage is None or _field(f / RECORD_NAME, "stage") == stage]


def trained_reward_models(rewards_dir: Path) -> list[Path]:
    """Folders of complete reward models, newest first."""
    return _trained(rewards_dir, REWARD_RECORD_NAME)


def _trained(parent: Path, record_name: str) -> list[Path]:
    folders = [p.parent for p in parent.glob(f"[!.]*/{record_name}")]
    return sorted(folders, key=lambda f: (_field(f / record_name, "created_at"), f.name), reverse=True)


def peek_record(folder: Path) -> dict[str, object]:
    """The fields of a generator's record, its weights not checked; none where it cannot be read."""
    return _fields(folder / RECORD_NAME)


def _field(path: Path, name: str) -> str:
    return str(_fields(path).get(name, ""))


def _fields(path: Path) -> dict[str, object]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # read_record says so when it is asked for
    return fields if isinstance(fields, dict) else {}
