"""A fake of vLLM, which cannot be installed everywhere: the call signatures of version 0.11 over a transformers model.

It shows that the engine calls vLLM as documented and reads its answers correctly. It shows nothing about vLLM itself.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from girl_features.generator.sampling import SeededSampling


class TokensPrompt(dict):  # a TypedDict in vLLM
    def __init__(self, *, prompt_token_ids: list[int]) -> None:
        super().__init__(prompt_token_ids=prompt_token_ids)


class SamplingParams(NamedTuple):
    n: int
    seed: int
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    detokenize: bool


class LoRARequest(NamedTuple):
    lora_name: str
    lora_int_id: int
    lora_path: str


class Completion(NamedTuple):
    token_ids: tuple[int, ...]
    finish_reason: str


class RequestOutput(NamedTuple):
    outputs: list[Completion]


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str,
        trust_remote_code: bool,
        load_format: str,
        generation_config: str,
        max_model_len: int,
        enable_prefix_caching: bool,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_num_seqs: int = 256,
    ) -> None:
        assert Path(tokenizer).is_dir() and (load_format, generation_config) == ("safetensors", "vllm")
        assert enable_prefix_caching and not trust_remote_code
        self._model: Any = AutoModelForCausalLM.from_pretrained(model).eval()
        self._max_model_len = max_model_len
        self._max_lora_rank = max_lora_rank if enable_lora else 0
        self.adapters: list[LoRARequest | None] = []

    def generate(
        self,
        prompts: list[TokensPrompt],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool,
        lora_request: LoRARequest | None,
    ) -> list[RequestOutput]:
        assert not use_tqdm and (lora_request is None or self._max_lora_rank > 0)
        self.adapters.append(lora_request)
        return [self._generate_text(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _generate_text(self, ids: list[int], params: SamplingParams) -> RequestOutput:
        assert params.n == 1 and not params.detokenize
        assert len(ids) + params.max_tokens <= self._max_model_len
        processors = LogitsProcessorList()
        if params.temperature > 0:
            processors.append(SeededSampling([params.seed], params.max_tokens, params.temperature, params.top_p))
        output = self._model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            logits_processor=processors,
            max_new_tokens=params.max_tokens,
            do_sample=False,
            eos_token_id=params.stop_token_ids,
            pad_token_id=0,
        )
        new = tuple(output[0, len(ids) :].tolist())
        return RequestOutput([Completion(new, "stop" if new[-1] in params.stop_token_ids else "length")])


def fake_modules() -> dict[str, ModuleType]:
    """Return the fake modules by name, for sys.modules."""
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.__dict__.update(LLM=LLM, SamplingParams=SamplingParams, TokensPrompt=TokensPrompt)
    request.__dict__.update(LoRARequest=LoRARequest)
    return {"vllm": vllm, "vllm.lora": lora, "vllm.lora.request": request}
