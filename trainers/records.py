"""Files that say how a model was made: the hash of its inputs, its record, and its folder.

A trained model lies in a folder named `<stage>-<first 12 digits of its input hash>`. The hash covers everything that
decides the result: the data, the settings, and the weights of the models that the training starts from. The same
inputs therefore need no second training.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from girl_features.config import PPOConfig, RewardConfig, TinyConfig
from girl_features.contract import sha256_of_files
from girl_features.encoder import find_encoder_folder
from girl_features.generator.checkpoint import (
    GeneratorRecord,
    adapter_hash,
    base_folder,
    is_adapter,
    read_record,
    weights_hash,
)


def hash_base_inputs(texts: pl.DataFrame, shape: TinyConfig, max_tokens: tuple[int, int, int], seed: int) -> str:
    """Return the hash of the inputs of the pretrained base `tiny`.

    Args:
        texts: columns `marker` and `text`.
        shape: the `generator.tiny` section.
        max_tokens: of a CV, of a JD, and of both together with the special tokens.
        seed: of the pretraining.
    """
    encoder = shape.embeddings_from
    encoder_weights = sorted(find_encoder_folder(encoder).glob("*.safetensors")) if encoder else []
    settings = {
        "shape": shape.model_dump(mode="json"),
        "lengths": list(max_tokens),
        "seed": seed,
        "encoder": sha256_of_files(encoder_weights) if encoder_weights else None,
    }
    return _hash(settings, texts.select("marker", "text"))


def hash_sft_inputs(
    pairs: pl.DataFrame, texts: pl.DataFrame | None, sft_end: datetime, base: str, settings: Mapping[str, object]
) -> str:
    """Return the hash of the inputs of stage 1.

    Args:
        pairs: matched pairs, with those of held-out seekers.
        texts: those that `tiny` is pretrained on; None for other bases.
        sft_end: end of the SFT window.
        base: the `generator.base` setting.
        settings: `GirlConfig.sft_settings`.
    """
    tables = [pairs.select("job_seeker_id", "job_id", "cv", "jd")]
    if texts is not None:
        tables.append(texts)
    return _hash({**settings, "base": base, "sft_end": sft_end.isoformat()}, *tables)


def hash_reward_inputs(pairs: pl.DataFrame, reward_end: datetime, settings: RewardConfig, sft: GeneratorRecord) -> str:
    """Return the hash of the inputs of stage 2: preference pairs, settings and the SFT generator."""
    values = {
        "reward": settings.model_dump(mode="json"),
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward_end": reward_end.isoformat(),
    }
    return _hash(values, pairs.select("job_seeker_id", "cv", "chosen", "rejected"))


def hash_rl_inputs(
    cvs: pl.DataFrame,
    pairs: pl.DataFrame | None,
    rl_end: datetime,
    settings: PPOConfig,
    max_new_tokens: int,
    sft: GeneratorRecord,
    reward: GeneratorRecord,
) -> str:
    """Return the hash of the inputs of stage 3. `pairs` are the preference pairs of DPO, None for other algorithms."""
    values = {
        "ppo": settings.model_dump(mode="json"),
        "max_new_tokens": max_new_tokens,
        "sft": [sft.weights_sha256, sft.adapter_sha256, sft.max_cv_tokens],
        "reward": reward.weights_sha256,
        "rl_end": rl_end.isoformat(),
    }
    cv_rows = cvs.select("job_seeker_id", "cv_hash")
    if pairs is None:
        return _hash(values, cv_rows)
    return _hash(values, cv_rows, b"pairs", pairs.select("job_seeker_id", "cv", "chosen", "rejected"))


def _hash(settings: Mapping[str, object], *parts: pl.DataFrame | bytes) -> str:
    """Return the SHA-256 of the settings and of the rows of each table in `parts`; bytes mark the start of a table."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in parts:
        if isinstance(part, bytes):
            digest.update(part)
            continue
        for row in part.iter_rows():
            digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()


def reward_record(
    settings: RewardConfig,
    sft: GeneratorRecord,
    prompt_version: str,
    reward_end: datetime,
    n_pairs: int,
    inputs: str,
    metrics: dict[str, float],
) -> GeneratorRecord:
    """Return the record of a new reward model, without the hash of its weights."""
    return GeneratorRecord(
        stage="reward",
        base=settings.base or sft.base,
        prompt_version=prompt_version,
        max_cv_tokens=sft.max_cv_tokens,
        trained_until=reward_end,
        n_pairs=n_pairs,
        inputs_sha256=inputs,
        weights_sha256="",
        adapter_sha256=None,
        created_at=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
        metrics=metrics,
        versions=package_versions("torch", "transformers", "trl"),
        parents={} if settings.base else {"sft": tuned_weights(sft)},
    )


def rl_record(
    settings: PPOConfig,
    sft: GeneratorRecord,
    reward: GeneratorRecord,
    rl_end: datetime,
    n_cvs: int,
    inputs: str,
    metrics: dict[str, float],
    notes: tuple[str, ...],
) -> GeneratorRecord:
    """Return the record of a new stage-3 generator, without the hash of its weights."""
    return GeneratorRecord(
        stage=settings.algo,
        base=sft.base,
        prompt_version=sft.prompt_version,
        max_cv_tokens=sft.max_cv_tokens,
        trained_until=rl_end,
        n_pairs=n_cvs,
        inputs_sha256=inputs,
        weights_sha256="",
        adapter_sha256=None,
        created_at=datetime.now(UTC),
        settings=settings.model_dump(mode="json"),
        metrics=metrics,
        versions=package_versions("torch", "transformers", "peft", "accelerate"),
        parents={"sft": tuned_weights(sft), "reward": reward.weights_sha256},
        notes=notes,
    )


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: version(name) for name in names}


def tuned_weights(record: GeneratorRecord) -> str:
    """Return the hash that identifies a generator: its adapter's where it has one, else its weights'."""
    return record.adapter_sha256 or record.weights_sha256


def weight_hashes(folder: Path, base: str) -> dict[str, str | None]:
    """Return the hash fields of a record: those of the whole model in `folder`, or of a LoRA adapter and its base."""
    if is_adapter(folder):
        return {"weights_sha256": weights_hash(base_folder(base)), "adapter_sha256": adapter_hash(folder)}
    return {"weights_sha256": weights_hash(folder), "adapter_sha256": None}


def find_trained(folders: Iterable[Path], inputs: str, record_name: str) -> Path | None:
    """Return the first folder whose record has this hash of inputs.

    Raises:
        CheckpointError: a record cannot be read, or the weights beside it have changed.
    """
    for folder in folders:
        if read_record(folder, record_name).inputs_sha256 == inputs:
            return folder
    return None


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save model and tokenizer in `folder`, and delete first what a run that was killed while saving left there."""
    if folder.exists():
        shutil.rmtree(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def publish(model_folder: Path, final: Path) -> None:
    """Rename the complete `model_folder` to `final`, which it replaces."""
    shutil.rmtree(final, ignore_errors=True)
    model_folder.rename(final)
