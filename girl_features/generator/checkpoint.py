"""A trained generator on disk: a Hugging Face folder (safetensors) plus `girl_generator.json`, its record."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.contract import sha256_of_files
from girl_features.errors import CheckpointError

RECORD_NAME = "girl_generator.json"


class GeneratorRecord(BaseModel):
    """Where a generator came from and what it has seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str  # "sft"
    base: str  # "tiny", or the path or name of the model that was tuned
    prompt_version: str
    max_cv_tokens: int
    trained_until: datetime  # exclusive end of the last window seen, UTC
    n_pairs: int
    inputs_sha256: str  # over training data and settings: the same inputs need no second training
    weights_sha256: str
    adapter_sha256: str | None
    created_at: datetime
    settings: dict[str, object]
    metrics: dict[str, float]
    versions: dict[str, str]


def weights_hash(folder: Path) -> str:
    """SHA-256 of the model's .safetensors files in `folder`, adapters left out.

    Raises:
        CheckpointError: there is none; pickled weights are named as refused.
    """
    weights = [p for p in folder.glob("*.safetensors") if p.name != "adapter_model.safetensors"]
    if not weights:
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in folder.glob(pattern))
        found = f"only {', '.join(pickled)}, which may run code when loaded" if pickled else "none"
        raise CheckpointError(f"{folder} should hold .safetensors weights, found {found}")
    return sha256_of_files(weights)


def adapter_hash(folder: Path) -> str:
    """SHA-256 of the LoRA adapter in `folder`.

    Raises:
        CheckpointError: there is no adapter_model.safetensors.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder} has an adapter_config.json but no adapter_model.safetensors")
    return sha256_of_files([path])


def is_adapter(folder: Path) -> bool:
    """Whether the checkpoint is a LoRA adapter over its record's base."""
    return (folder / "adapter_config.json").is_file()


def read_record(folder: Path) -> GeneratorRecord:
    """The record of a trained generator, after checking that the weights are those it was written for.

    Raises:
        CheckpointError: no record, an unreadable one, or weights that have changed since.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {RECORD_NAME}; train with `girl train sft`, or give its folder")
    try:
        record = GeneratorRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train again with `girl train sft`") from error
    if is_adapter(folder):
        found, wanted = adapter_hash(folder), record.adapter_sha256
    else:
        found, wanted = weights_hash(folder), record.weights_sha256
    if found != wanted:
        raise CheckpointError(
            f"the weights in {folder} hash to {found[:12]}, but their record says {str(wanted)[:12]}: they were "
            f"altered or cut short; delete the folder and run `girl train sft`"
        )
    return record


def write_record(folder: Path, record: GeneratorRecord) -> None:
    """Write `girl_generator.json` into `folder`."""
    text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
    (folder / RECORD_NAME).write_text(text + "\n", encoding="utf-8")


def trained_generators(generators_dir: Path) -> list[Path]:
    """Folders of complete generators, newest first; unfinished runs lie in hidden folders and do not count."""
    folders = [p.parent for p in generators_dir.glob(f"[!.]*/{RECORD_NAME}")]
    return sorted(folders, key=lambda f: (_created_at(f), f.name), reverse=True)


def _created_at(folder: Path) -> str:
    try:
        return str(json.loads((folder / RECORD_NAME).read_text(encoding="utf-8")).get("created_at", ""))
    except ValueError:
        return ""  # unreadable: read_record says so when it is asked for
