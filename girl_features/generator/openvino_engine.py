"""The CPU engine: openvino-genai runs an exported model, with continuous batching and a cache of prompt prefixes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.config import PromptStyle
from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError, reason_of, require
from girl_features.generator.checkpoint import base_folder, model_folder
from girl_features.generator.openvino_export import Weights, cached_export
from girl_features.generator.openvino_graph import EXTRA
from girl_features.generator.prompts import DrawRequest, group_by_cv
from girl_features.generator.tokens import load_config, open_codec
from girl_features.schema import GeneratedText

BLOCK_TOKENS = 32  # tokens in one block of the paged cache on CPUs
STEP_TOKENS = 2048  # tokens read in one step; the default of 256 splits prompts and is 10% slower


def _check_window(folder: Path, n_tokens: int) -> None:
    """Refuse a model with layers that read fewer than `n_tokens`, the last ones: OpenVINO lets them read all.

    Raises:
        CheckpointError: it is such a model.
    """
    config = load_config(model_folder(folder))
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    slides = "sliding_attention" in layers if layers else getattr(config, "use_sliding_window", True)
    if window is not None and slides and n_tokens > window:
        raise CheckpointError(
            f"prompt and JD have up to {n_tokens} tokens, but layers of {folder} read only the last {window}, which "
            f"OpenVINO does not know: set `generator.engine` to `transformers`, or lower `generator.max_cv_tokens` or "
            f"`sampling.max_new_tokens`"
        )


class OpenVINOGenerator:
    """Generates JDs with openvino-genai, from the same prompt token ids as the reference engine."""

    def __init__(
        self,
        folder: str | Path,
        sampling: SamplingContract,
        *,
        max_cv_tokens: int,
        batch_size: int = 32,
        weights: Weights = "int8",
        exports: Path,
        threads: int | None = None,
        style: PromptStyle = "full",
    ) -> None:
        self._openvino = require("openvino", EXTRA)
        self._genai = require("openvino_genai", EXTRA)
        self._codec = open_codec(base_folder(folder), max_cv_tokens, sampling.max_new_tokens, style)
        self.prompt_version = self._codec.version
        _check_window(base_folder(folder), self._codec.longest_prompt + sampling.max_new_tokens)
        self._sampling = sampling
        self._batch_size = batch_size
        export = cached_export(folder, weights, exports)
        try:
            self._pipeline = self._genai.ContinuousBatchingPipeline(
                str(export), self._scheduler(), "CPU", _properties(weights, threads)
            )
        except RuntimeError as error:
            reason = reason_of(error, 300)
            raise CheckpointError(
                f"openvino-genai cannot run {str(folder)!r} ({reason}); set `generator.engine` to `transformers`"
            ) from error

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """Generate one JD for each seed of each CV, as the protocol `Generator` says."""
        requests = _in_waves(self._codec.requests(cvs, seeds), self._batch_size)
        if not requests:
            return [[] for _ in seeds]
        prompts = [self._openvino.Tensor(np.array([r.prompt.ids], np.int64)) for r in requests]
        results = self._pipeline.generate(prompts, [self._parameters(r.seed) for r in requests])
        new_ids = [result.m_generation_ids[0] for result in results]
        texts = [self._codec.decode(ids, r.prompt) for ids, r in zip(new_ids, requests, strict=True)]
        return group_by_cv(seeds, requests, texts)

    def _parameters(self, seed: int) -> Any:
        # A new config, so that settings of the checkpoint do not change the sampling.
        config = self._genai.GenerationConfig(max_new_tokens=self._sampling.max_new_tokens)
        config.set_eos_token_id(self._codec.stop_ids[0])
        config.stop_token_ids = set(self._codec.stop_ids)
        if self._sampling.temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p = self._sampling.temperature, self._sampling.top_p
            config.rng_seed = seed
        return config

    def _scheduler(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = self._batch_size
        scheduler.max_num_batched_tokens = STEP_TOKENS
        blocks = math.ceil((self._codec.longest_prompt + self._sampling.max_new_tokens) / BLOCK_TOKENS)
        # Twice the blocks of a full batch, so that prompts stay cached until their next sample is drawn.
        scheduler.num_kv_blocks = 2 * self._batch_size * (blocks + 1)
        return scheduler


def _in_waves(requests: Sequence[DrawRequest], size: int) -> list[DrawRequest]:
    """Order requests: the first samples of `size` CVs, then their second samples, and so on; then the next CVs.

    If all samples of one CV started at once, each would read the prompt. In waves, later samples find it cached.
    """
    return sorted(requests, key=lambda r: (r.cv // size, r.sample, r.cv))


def _properties(weights: Weights, threads: int | None) -> dict[str, Any]:
    """Compute settings: int8 weights run in the fastest type of the CPU (bfloat16 with AMX), others in float32."""
    properties: dict[str, Any] = {"KV_CACHE_PRECISION": "f16"}
    if weights == "float32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties
