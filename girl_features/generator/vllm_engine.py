"""The GPU engine: vLLM, which batches continuously, shares prompt prefixes and serves LoRA adapters as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from girl_features.errors import CheckpointError, require
from girl_features.generator.checkpoint import adapter_base, adapter_settings, base_folder, is_adapter
from girl_features.generator.prompting import Prompting, Request, by_cv
from girl_features.schema import GeneratedText

EXTRA = "vllm"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # sizes vLLM makes room for


class VLLMGenerator:
    """Samples JDs with vLLM. Prompts are token ids, those of the reference engine."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_cv_tokens: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        batch_size: int | None = None,
    ) -> None:
        self._vllm = require("vllm", EXTRA)
        checkpoint = base_folder(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=False)
        self._prompting = Prompting(self._tokenizer, max_cv_tokens)
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._top_p = top_p
        model, lora = _model_and_adapter(checkpoint)
        self._adapter = lora
        self._engine = self._vllm.LLM(
            model=str(model),
            tokenizer=str(checkpoint),
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",  # nothing of the checkpoint's own bends the sampling
            max_model_len=self._prompting.longest_prompt() + max_new_tokens,
            enable_prefix_caching=True,
            **({} if lora is None else {"enable_lora": True, "max_lora_rank": _room_for(checkpoint)}),
            **({} if batch_size is None else {"max_num_seqs": batch_size}),
        )

    @property
    def prompt_version(self) -> str:
        """Version of the prompt template in use."""
        return self._prompting.template.version

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """For each CV, one JD for each of its seeds, in order.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        requests = self._prompting.requests(cvs, seeds)
        if not requests:
            return [[] for _ in seeds]
        results = self._engine.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=request.prompt.ids) for request in requests],
            [self._sampling(request.seed) for request in requests],
            use_tqdm=False,
            lora_request=self._adapter,
        )
        texts = [self._text(result.outputs[0], request) for request, result in zip(requests, results, strict=True)]
        return by_cv(seeds, requests, texts)

    def _sampling(self, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,  # every sample has a seed of its own, so it is a request of its own; the prompt is read once
            seed=seed,
            temperature=self._temperature,
            top_p=self._top_p,
            max_tokens=self._max_new_tokens,
            stop_token_ids=[self._tokenizer.eos_token_id],
            detokenize=False,
        )

    def _text(self, completion: Any, request: Request) -> GeneratedText:
        ids = list(completion.token_ids)
        if completion.finish_reason == "stop":
            ids.append(self._tokenizer.eos_token_id)  # a second one, where it is there already, changes nothing
        return self._prompting.text(ids, request.prompt)


def _model_and_adapter(checkpoint: Path) -> tuple[Path, Any]:
    """What vLLM loads: the checkpoint, or its base and a request for the adapter over it."""
    if not is_adapter(checkpoint):
        return checkpoint, None
    lora = require("vllm.lora.request", EXTRA)
    return adapter_base(checkpoint), lora.LoRARequest("girl", 1, str(checkpoint))


def _room_for(checkpoint: Path) -> int:
    rank = int(adapter_settings(checkpoint)["r"])
    room = next((size for size in _RANKS if size >= rank), None)
    if room is None:
        raise CheckpointError(
            f"the adapter in {checkpoint} has rank {rank}, vLLM takes at most {_RANKS[-1]}; "
            f"train with a smaller `sft.lora_rank`, or set `generator.engine` to `transformers`"
        )
    return room
