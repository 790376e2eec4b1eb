"""Settings of generation: the language model, how texts are sampled from it, and the encoder of the texts."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from girl_features.config.section import Section, as_utc

EngineSetting = Literal["auto", "transformers", "openvino", "openvino-float32", "vllm"]


class TinyConfig(Section):
    """Shape of the small built-in decoder, which is trained on the user's own tables."""

    vocab_size: int = Field(8192, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16)
    n_layers: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    pretrain_epochs: float = Field(2, ge=0, description="passes over the SFT window's CVs and JDs before SFT")
    pretrain_learning_rate: float = Field(3e-3, gt=0)
    embeddings_from: str | None = Field(
        "all-MiniLM-L6-v2", description="sentence encoder whose word vectors initialize the token vectors; null: random"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyConfig:
        if self.hidden_size % self.n_heads or (self.hidden_size // self.n_heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        return self


class GeneratorConfig(Section):
    """The language model that writes JDs."""

    base: str = Field("tiny", description="`tiny`, or a Hugging Face causal LM by path or name")
    engine: EngineSetting = Field(
        "auto", description="auto: vllm on GPUs, openvino on CPUs where it is installed, else transformers"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; default: one for small models, else all cores")
    checkpoint: Path | None = Field(None, description="a trained generator; default: the newest one in the workspace")
    stage: Literal["sft", "ppo", "rloo", "grpo", "dpo"] | None = Field(
        None, description="use the newest generator of this stage, if there are several stages"
    )
    trained_until: datetime | None = Field(
        None, description="knowledge cut-off of an untuned base; used if there is no training record"
    )
    max_cv_tokens: int = Field(320, ge=8, description="number of first tokens of the CV that the prompt keeps")
    tiny: TinyConfig = TinyConfig()
    batch_size: int | None = Field(
        None, ge=1, description="JDs generated at once; default: 32, with vllm as many as fit in memory"
    )

    @field_validator("trained_until")
    @classmethod
    def _cutoff_utc(cls, value: datetime | None) -> datetime | None:
        return as_utc(value)


class SamplingConfig(Section):
    """How JDs are sampled from the generator."""

    n: int = Field(1, ge=1, le=64, description="JDs per CV")
    best_of: int | None = Field(
        None, ge=2, le=256, description="JDs sampled per CV, from which the reward model keeps the best n"
    )
    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(
        192, ge=1, description="a JD cut at this length is not stored; should be at least sft.max_jd_tokens"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _more_than_kept(self) -> SamplingConfig:
        if self.best_of is not None and self.best_of <= self.n:
            raise ValueError(f"best_of is {self.best_of}, but n = {self.n} of them are kept; draw more than that")
        return self


class EncoderConfig(Section):
    """The sentence encoder that makes the vectors."""

    name: str = Field("all-MiniLM-L6-v2", description="sentence-transformers model by path or name")
    batch_size: int = Field(64, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CPUs with AMX, float32 elsewhere, or the dtype of the stored vectors"
    )


class RayConfig(Section):
    """The cluster and the workers of `girl materialize --on ray`."""

    address: str | None = Field(
        None, description="address of a cluster; default: RAY_ADDRESS, else a new one on this machine"
    )
    workers: int | None = Field(
        None, ge=1, description="each worker loads the models once; default: as many as the cluster has room for"
    )
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
