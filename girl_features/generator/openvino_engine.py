"""The CPU engine: openvino-genai with continuous batching and a cache of prompt prefixes, over an exported model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from girl_features.errors import CheckpointError, require
from girl_features.generator.checkpoint import base_folder
from girl_features.generator.openvino_export import Weights, exported
from girl_features.generator.prompting import Prompting, Request, by_cv
from girl_features.schema import GeneratedText

BLOCK_TOKENS = 32  # of one block of the paged cache on CPUs
STEP_TOKENS = 2048  # read at most in one step; openvino-genai's 256 splits prompts, and costs a tenth of the speed
EXTRA = "openvino"


class OpenVINOGenerator:
    """Samples JDs with openvino-genai. Prompts are token ids, those of the reference engine."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_cv_tokens: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        batch_size: int = 32,
        weights: Weights = "int8",
        exports: Path,
        threads: int | None = None,
    ) -> None:
        self._openvino = require("openvino", EXTRA)
        self._genai = require("openvino_genai", EXTRA)
        tokenizer = AutoTokenizer.from_pretrained(str(base_folder(folder)), trust_remote_code=False)
        self._prompting = Prompting(tokenizer, max_cv_tokens)
        self._eos = tokenizer.eos_token_id
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._top_p = top_p
        self._batch_size = batch_size
        export = exported(folder, weights, exports)
        try:
            self._pipeline = self._genai.ContinuousBatchingPipeline(
                str(export), self._scheduler(), "CPU", _properties(weights, threads)
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"openvino-genai cannot run {str(folder)!r} ({reason}); set `generator.engine` to `transformers`"
            ) from error

    @property
    def prompt_version(self) -> str:
        """Version of the prompt template in use."""
        return self._prompting.template.version

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """For each CV, one JD for each of its seeds, in order.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        requests = list(_in_waves(self._prompting.requests(cvs, seeds), self._batch_size))
        if not requests:
            return [[] for _ in seeds]
        prompts = [self._openvino.Tensor(np.array([r.prompt.ids], np.int64)) for r in requests]
        results = self._pipeline.generate(prompts, [self._sampling(r.seed) for r in requests])
        texts = [
            self._prompting.text(result.m_generation_ids[0], r.prompt)
            for r, result in zip(requests, results, strict=True)
        ]
        return by_cv(seeds, requests, texts)

    def _sampling(self, seed: int) -> Any:
        # a fresh config each: nothing of the checkpoint's own bends the sampling
        config = self._genai.GenerationConfig(max_new_tokens=self._max_new_tokens)
        if self._eos is not None:
            config.set_eos_token_id(self._eos)
        if self._temperature > 0:
            config.do_sample = True
            config.temperature, config.top_p, config.rng_seed = self._temperature, self._top_p, seed
        return config

    def _scheduler(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = self._batch_size
        scheduler.max_num_batched_tokens = STEP_TOKENS
        blocks = -(-(self._prompting.longest_prompt() + self._max_new_tokens) // BLOCK_TOKENS)
        # as many again keep the prompts of a wave until their next sample is drawn
        scheduler.num_kv_blocks = 2 * self._batch_size * (blocks + 1)
        return scheduler


def _in_waves(requests: Sequence[Request], size: int) -> Iterator[Request]:
    """The first samples of `size` CVs, then their second ones, and so on; then the next CVs.

    Samples of one CV that start together would each read the prompt; the later ones find it cached.
    """
    return iter(sorted(requests, key=lambda r: (r.cv // size, r.sample, r.cv)))


def _properties(weights: Weights, threads: int | None) -> dict[str, Any]:
    """int8 weights are multiplied in what the CPU is fastest at (bfloat16, where it has AMX), others in float32."""
    properties: dict[str, Any] = {"KV_CACHE_PRECISION": "f16"}
    if weights == "float32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties
