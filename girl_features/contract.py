"""FeatureContract: everything that determines a vector, with one short fingerprint.

Two vectors may be in one column only if their fingerprints are equal. Feast does not check this, since its view
versions ignore tags. So the fingerprint is in the name of the view, in every row, and in every saved ranker.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from girl_features.errors import CheckpointError

FINGERPRINT_LENGTH = 12  # hex digits: 48 bits, so that two contracts of one store will not share a fingerprint


def _is_none(value: object) -> bool:
    """True if a later field is unused. It is left out then, so that older contracts keep their fingerprint."""
    return value is None


class _Fingerprinted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def fingerprint(self) -> str:
        """The first twelve hex digits of the SHA-256 of this model's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


class SamplingContract(_Fingerprinted):
    """How texts are sampled from the generator."""

    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    best_of: int | None = Field(None, exclude_if=_is_none)  # JDs sampled per CV; a reward model keeps the best n
    reward_sha256: str | None = Field(None, exclude_if=_is_none)  # hash of the weights of that reward model
    max_copied: float | None = Field(None, exclude_if=_is_none)  # share of a JD that may be copied from the CV


class EncoderContract(_Fingerprinted):
    """How a text is turned into a vector."""

    name: str
    weights_sha256: str
    max_tokens: int
    pooling: Literal["mean", "cls", "other"]
    normalized: bool
    dtype: str
    dimension: int
    # UTC end of the decisions that `girl train encoder` tuned it on; None: it was tuned on none of ours
    trained_until: datetime | None = Field(None, exclude_if=_is_none)


class FeatureContract(_Fingerprinted):
    """How a CV is turned into a generated-JD vector."""

    generator: str  # "tiny", or the name of the base model, for readers; the hashes identify the model
    weights_sha256: str
    adapter_sha256: str | None
    trained_until: datetime  # UTC end of the last time window that the generator or its reward model was trained on
    prompt_version: str
    max_cv_tokens: int
    sampling: SamplingContract
    encoder: EncoderContract
    # None: transformers
    engine: Literal["openvino", "openvino-float32", "vllm"] | None = Field(None, exclude_if=_is_none)
    samples_pooling: Literal["mean"] = "mean"  # over the n generated JDs of one CV (GIRL, section VI-E)
    # raised when a change of cleaning, redaction, retries or defect rules changes what is stored
    pipeline_version: Literal[1, 2, 3, 4] = 4

    @property
    def engine_name(self) -> str:
        """Name of the engine that runs the generator."""
        return self.engine or "transformers"


def sha256_of_files(paths: list[Path]) -> str:
    """Return the hex SHA-256 over the names and bytes of `paths`, in path order.

    Raises:
        CheckpointError: `paths` is empty.
    """
    if not paths:
        raise CheckpointError("no weight files to hash: expected at least one .safetensors file")
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """Return sixteen hex digits that change when the text of a CV or JD changes."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sampling_seed(cv_hash_hex: str, contract_fingerprint: str, sample: int) -> int:
    """Return the 63-bit seed of one sample of one CV under one contract; equal arguments give equal seeds."""
    digest = hashlib.sha256(f"{cv_hash_hex}:{contract_fingerprint}:{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
