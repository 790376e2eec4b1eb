"""The GPU engine: vLLM, with continuous batching, a prefix cache, and LoRA adapters that are not merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from girl_features.config import PromptStyle
from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError, require
from girl_features.generator.checkpoint import adapter_base, adapter_settings, base_folder, is_adapter
from girl_features.generator.prompts import DrawRequest, group_by_cv
from girl_features.generator.tokens import open_codec
from girl_features.schema import GeneratedText

EXTRA = "vllm"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as `max_lora_rank`


class VLLMGenerator:
    """Generates JDs with vLLM, from the same prompt token ids as the transformers engine."""

    def __init__(
        self,
        folder: str | Path,
        sampling: SamplingContract,
        *,
        max_cv_tokens: int,
        batch_size: int | None = None,
        style: PromptStyle = "full",
    ) -> None:
        self._vllm = require("vllm", EXTRA)
        checkpoint = base_folder(folder)
        self._codec = open_codec(checkpoint, max_cv_tokens, sampling.max_new_tokens, style)
        self.prompt_version = self._codec.version
        self._sampling = sampling
        model, self._adapter = checkpoint, None
        adapter_options = {}
        if is_adapter(checkpoint):
            model = adapter_base(checkpoint)
            self._adapter = require("vllm.lora.request", EXTRA).LoRARequest("girl", 1, str(checkpoint))
            adapter_options = {"enable_lora": True, "max_lora_rank": _max_lora_rank(checkpoint)}
        self._engine = self._vllm.LLM(
            model=str(model),
            tokenizer=str(checkpoint),
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",  # ignores the sampling settings of the checkpoint
            max_model_len=self._codec.longest_prompt + sampling.max_new_tokens,
            enable_prefix_caching=True,
            **adapter_options,
            **({} if batch_size is None else {"max_num_seqs": batch_size}),
        )

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """Generate one JD for each seed of each CV, as the protocol `Generator` says."""
        requests = self._codec.requests(cvs, seeds)
        if not requests:
            return [[] for _ in seeds]
        results = self._engine.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=request.prompt.ids) for request in requests],
            [self._parameters(request.seed) for request in requests],
            use_tqdm=False,
            lora_request=self._adapter,
        )
        texts = [self._text(result.outputs[0], request) for request, result in zip(requests, results, strict=True)]
        return group_by_cv(seeds, requests, texts)

    def _parameters(self, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,  # each sample has its own seed, so its own request; the prefix cache spares reading the prompt again
            seed=seed,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_new_tokens,
            stop_token_ids=self._codec.stop_ids,
            detokenize=False,
        )

    def _text(self, completion: Any, request: DrawRequest) -> GeneratedText:
        ids = list(completion.token_ids)
        if completion.finish_reason == "stop":
            ids.append(self._codec.stop_ids[0])  # may be the second end token; `decode` stops at the first
        return self._codec.decode(ids, request.prompt)


def _max_lora_rank(checkpoint: Path) -> int:
    rank = int(adapter_settings(checkpoint)["r"])
    if rank > _LORA_RANKS[-1]:
        raise CheckpointError(
            f"the adapter in {checkpoint} has rank {rank}, vLLM takes at most {_LORA_RANKS[-1]}; "
            f"train with a smaller `sft.lora_rank`, or set `generator.engine` to `transformers`"
        )
    return min(size for size in _LORA_RANKS if size >= rank)
