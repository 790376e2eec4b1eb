"""The reference engine: any Hugging Face causal LM through `transformers`, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

from girl_features.contract import SamplingContract
from girl_features.errors import require
from girl_features.generator.checkpoint import adapter_base, base_folder, is_adapter
from girl_features.generator.prompts import DrawRequest, PromptCodec, group_by_cv
from girl_features.generator.sampling import SeededSampling
from girl_features.schema import GeneratedText


def load_causal_lm(name: str | Path, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Load model and tokenizer of a causal LM by path or name, from safetensors only and without remote code.

    For a LoRA adapter, the base model is loaded and the adapter is merged into it.

    Args:
        name: path of a folder, or a name on the hub.
        dtype: of the weights. None is the dtype that they are stored in, or float32 with an adapter, which changes
            most weights by less than bfloat16 and float16 can tell apart. Training needs float32 for the same reason.

    Raises:
        CheckpointError: there is no such folder, and the hub does not have the model.
    """
    folder = base_folder(name)
    base = adapter_base(folder) if is_adapter(folder) else folder
    if dtype is None:
        dtype = torch.float32 if is_adapter(folder) else "auto"  # type: ignore[assignment]
    model = AutoModelForCausalLM.from_pretrained(str(base), trust_remote_code=False, use_safetensors=True, dtype=dtype)
    if is_adapter(folder):
        model = require("peft", "generate").PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # when generating, it is only used at masked positions
    return model, tokenizer


class TransformersGenerator:
    """Generates JDs with `generate` of transformers."""

    def __init__(
        self,
        folder: str | Path,
        sampling: SamplingContract,
        *,
        max_cv_tokens: int,
        batch_size: int = 32,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        model, self._tokenizer = load_causal_lm(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._codec = PromptCodec(self._tokenizer, max_cv_tokens)
        self.prompt_version = self._codec.version
        self._sampling = sampling
        self._batch_size = batch_size
        # A new config, so that a repetition penalty or top_k of the checkpoint does not change the sampling.
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """Generate one JD for each seed of each CV, as the protocol `Generator` says."""
        requests = self._codec.requests(cvs, seeds)
        requests.sort(key=lambda request: len(request.prompt.ids))
        texts: list[GeneratedText] = []
        for start in range(0, len(requests), self._batch_size):
            texts += self._generate_batch(requests[start : start + self._batch_size])
        return group_by_cv(seeds, requests, texts)

    @torch.inference_mode()
    def _generate_batch(self, requests: Sequence[DrawRequest]) -> list[GeneratedText]:
        prompts = [request.prompt for request in requests]
        width = max(len(p.ids) for p in prompts)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p.ids)) + p.ids for p in prompts])  # (b, width), left padded
        mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts])
        processors, sampling = LogitsProcessorList(), self._sampling
        if sampling.temperature > 0:
            seeds = [request.seed for request in requests]
            processors.append(SeededSampling(seeds, sampling.max_new_tokens, sampling.temperature, sampling.top_p))
        ids, mask = ids.to(self._device), mask.to(self._device)
        output = self._model.generate(input_ids=ids, attention_mask=mask, logits_processor=processors)
        rows = output[:, width:].tolist()
        return [self._codec.decode(row, p) for row, p in zip(rows, prompts, strict=True)]
