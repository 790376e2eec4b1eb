"""The reference engine: any Hugging Face causal LM through `transformers`, in length-sorted batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

from girl_features.errors import ShapeError, require
from girl_features.generator.checkpoint import base_folder, is_adapter
from girl_features.generator.sampling import SeededSampling
from girl_features.prompts import PromptIds, encode_prompt, template_for
from girl_features.schema import GeneratedText


def load_causal_lm(name: str | Path) -> tuple[Any, Any]:
    """Model and tokenizer of a causal LM by path or name; safetensors only, no remote code.

    A LoRA folder loads its base and merges the adapter into it.

    Raises:
        CheckpointError: no such folder, and the hub does not give it.
    """
    folder = base_folder(name)
    if is_adapter(folder):
        peft = require("peft", "generate")
        base = base_folder(peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path)
        model = AutoModelForCausalLM.from_pretrained(str(base), trust_remote_code=False, use_safetensors=True)
        model = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    else:
        model = AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=False, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only masked positions hold it when generating
    return model, tokenizer


class TransformersGenerator:
    """Samples JDs with `transformers`' generate."""

    def __init__(
        self,
        folder: str | Path,
        *,
        max_cv_tokens: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        batch_size: int = 32,
    ) -> None:
        model, self._tokenizer = load_causal_lm(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self._template = template_for(self._tokenizer)
        self._max_cv_tokens = max_cv_tokens
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._top_p = top_p
        self._batch_size = batch_size
        # a fresh config, so that no repetition penalty or top_k of the model's own bends the sampling
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )

    @property
    def prompt_version(self) -> str:
        """Version of the prompt template in use."""
        return self._template.version

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        """For each CV, one JD for each of its seeds, in order.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        if len(cvs) != len(seeds):
            raise ShapeError(f"{len(cvs)} CVs came with seeds for {len(seeds)}")
        prompts = [encode_prompt(self._tokenizer, self._template, cv, self._max_cv_tokens) for cv in cvs]
        jobs = [(i, sample, seed) for i, own in enumerate(seeds) for sample, seed in enumerate(own)]
        jobs.sort(key=lambda job: len(prompts[job[0]].ids))
        results: dict[tuple[int, int], GeneratedText] = {}
        for start in range(0, len(jobs), self._batch_size):
            batch = jobs[start : start + self._batch_size]
            texts = self._generate_batch([prompts[i] for i, _, _ in batch], [seed for _, _, seed in batch])
            results.update({(i, sample): text for (i, sample, _), text in zip(batch, texts, strict=True)})
        return [[results[i, sample] for sample in range(len(own))] for i, own in enumerate(seeds)]

    @torch.inference_mode()
    def _generate_batch(self, prompts: list[PromptIds], seeds: list[int]) -> list[GeneratedText]:
        width = max(len(p.ids) for p in prompts)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p.ids)) + p.ids for p in prompts])  # (b, width), left padded
        mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in prompts])
        processors = LogitsProcessorList()
        if self._temperature > 0:
            processors.append(SeededSampling(seeds, self._max_new_tokens, self._temperature, self._top_p))
        output = self._model.generate(
            input_ids=ids.to(self._device), attention_mask=mask.to(self._device), logits_processor=processors
        )
        return [self._text(row, p) for row, p in zip(output[:, width:].tolist(), prompts, strict=True)]

    def _text(self, new_ids: list[int], prompt: PromptIds) -> GeneratedText:
        eos = self._tokenizer.eos_token_id
        finished = eos in new_ids
        kept = new_ids[: new_ids.index(eos)] if finished else new_ids
        return GeneratedText(
            text=self._tokenizer.decode(kept, skip_special_tokens=True).strip(),
            finish_reason="stop" if finished else "length",
            n_prompt_tokens=len(prompt.ids),
            n_new_tokens=len(kept),
            cv_truncated=prompt.cv_truncated,
        )
