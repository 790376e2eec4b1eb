"""The reference engine: any Hugging Face causal LM through `transformers`, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList

from girl_features.config import PromptStyle
from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError, reason_of, require
from girl_features.generator.checkpoint import base_folder, is_adapter, model_folder
from girl_features.generator.model_files import check_model_files
from girl_features.generator.prompts import DrawRequest, encode_prompt, group_by_cv, template_for
from girl_features.generator.sampling import SeededSampling
from girl_features.generator.tokens import load_tokenizer, open_codec, stop_ids
from girl_features.schema import GeneratedText


def load_causal_lm(name: str | Path, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Load model and tokenizer of a causal LM by path or name, from safetensors only and without remote code.

    For a LoRA adapter, the base model is loaded and the adapter is merged into it. The model's generation settings
    name every token that ends a JD, so that a saved copy names them too.

    Args:
        name: path of a folder, or a name on the hub.
        dtype: of the weights. None is the dtype that they are stored in, or float32 with an adapter, which changes
            most weights by less than bfloat16 and float16 can tell apart. Training needs float32 for the same reason.

    Raises:
        CheckpointError: there is no such folder, and the hub does not have the model; or it cannot be loaded whole.
    """
    folder = base_folder(name)
    base = model_folder(folder)
    if dtype is None:
        dtype = torch.float32 if is_adapter(folder) else "auto"  # type: ignore[assignment]
    model = _load_model(base, dtype)
    if is_adapter(folder):
        model = require("peft", "generate").PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    tokenizer = load_tokenizer(folder)
    ends = stop_ids(folder, tokenizer)
    _check_vocabulary(folder, model, tokenizer, ends)
    try:
        model.generation_config.validate(strict=True)
    except ValueError:  # some bases are published with settings that transformers refuses to save
        model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)  # type: ignore[no-untyped-call]
    model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends
    return model, tokenizer


def _load_model(folder: Path, dtype: Any) -> Any:
    """Load the causal LM in `folder`. A weight that its files lack would be drawn at random, so it is an error."""
    check_model_files(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    options["dtype"] = dtype
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    except Exception as error:  # the loader raises whatever a damaged file or an unknown kind of model leads to
        reason = reason_of(error)
        raise CheckpointError(
            f"{folder} cannot be loaded as a causal language model ({type(error).__name__}: {reason})"
        ) from error
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the files in {folder} lack {len(missing)} weights of a {type(model).__name__}, {missing[0]} among them; "
            f"give a complete causal language model"
        )
    return model


def _check_vocabulary(folder: Path, model: Any, tokenizer: Any, ends: Sequence[int]) -> None:
    """Check that the model has a vector for every token that it may read or write.

    Special tokens that no prompt has may lack one. A padding token without a vector is replaced by the end token.
    """
    n_vectors = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id >= n_vectors:
        tokenizer.pad_token = tokenizer.eos_token
    prompt = encode_prompt(tokenizer, template_for(tokenizer), "", 0).ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = (set(tokenizer.get_vocab().values()) - special) | {*prompt, *ends}
    beyond = sorted(token for token in used if token >= n_vectors)
    if beyond:
        raise CheckpointError(
            f"the tokenizer in {folder} has {len(beyond)} tokens ({tokenizer.convert_ids_to_tokens(beyond[0])!r}, ...) "
            f"more than the model has vectors ({n_vectors}): they do not belong together; put the model's own "
            f"tokenizer there"
        )


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
        style: PromptStyle = "full",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._codec = open_codec(base_folder(folder), max_cv_tokens, sampling.max_new_tokens, style)
        model, self._tokenizer = load_causal_lm(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        self.prompt_version = self._codec.version
        self._sampling = sampling
        self._batch_size = batch_size
        # A new config, so that a repetition penalty or top_k of the checkpoint does not change the sampling.
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self._codec.stop_ids,
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
