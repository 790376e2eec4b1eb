"""FeatureContract: everything that made a vector, as one short fingerprint.

Two vectors may share a column only if their fingerprints are equal. Feast knows nothing of it (its view
versions ignore tags), so the fingerprint is in the view's name, in every row, and in every saved ranker.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from girl_features.errors import CheckpointError

FINGERPRINT_LENGTH = 12  # hex digits: 48 bits, ample for the contracts one store will ever hold


class _Fingerprinted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the SHA-256 of this model's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


class SamplingContract(_Fingerprinted):
    """How texts are drawn from the generator."""

    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    best_of: int | None = None  # drawn a CV, of which a reward model keeps the best n
    reward_sha256: str | None = None  # weights of that reward model

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave best-of-N out where it is not used: contracts older than it keep their fingerprint."""
        values: dict[str, object] = handler(self)
        return {name: value for name, value in values.items() if value is not None}


class EncoderContract(_Fingerprinted):
    """What turns a text into a vector."""

    name: str
    weights_sha256: str
    max_tokens: int
    pooling: Literal["mean", "cls", "other"]
    normalized: bool
    dtype: str
    dimension: int


class FeatureContract(_Fingerprinted):
    """What turns a CV into a generated-JD vector."""

    generator: str  # "tiny", or the name of the base model: for people; the hashes decide
    weights_sha256: str
    adapter_sha256: str | None
    trained_until: datetime  # end of the last window the generator or its reward model saw, UTC
    prompt_version: str
    max_cv_tokens: int
    sampling: SamplingContract
    encoder: EncoderContract
    engine: Literal["openvino", "openvino-float32", "vllm"] | None = None  # other texts; None: transformers
    samples_pooling: Literal["mean"] = "mean"  # over the n generated JDs of one CV (GIRL, section VI-E)
    pipeline_version: Literal[1, 2, 3] = 3  # raised when cleaning, retries or rules for defects change what is stored

    @property
    def engine_name(self) -> str:
        """What runs the generator."""
        return self.engine or "transformers"

    @model_serializer(mode="wrap")
    def _without_engine(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave the engine out where it is the reference: contracts older than the others keep their fingerprint."""
        values: dict[str, object] = handler(self)
        return {name: value for name, value in values.items() if name != "engine" or value is not None}


def sha256_of_files(paths: list[Path]) -> str:
    """Hex SHA-256 over the names and bytes of `paths`, in path order.

    Raises:
        CheckpointError: `paths` is empty.
    """
    if not paths:
        raise CheckpointError("no weight files to hash: expected at least one .safetensors file")
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            for block in iter(lambda f=file: f.read(1 << 20), b""):  # type: ignore[misc]
                digest.update(block)
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """Sixteen hex digits that change when the text of a CV or JD does."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sampling_seed(cv_hash_hex: str, contract_fingerprint: str, sample: int) -> int:
    """A 63-bit seed for sample number `sample` of one CV under one contract: same input, same text."""
    digest = hashlib.sha256(f"{cv_hash_hex}:{contract_fingerprint}:{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
