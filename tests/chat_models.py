"""Small random models of several families, with tokenizers that have chat templates of all sorts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TEMPLATES = {
    "chatml": TURNS + ASK,
    "own system line": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Helper 3000<|im_end|>\n{% endif %}"
        + TURNS
        + ASK
    ),
    "today": "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + TURNS + ASK,
    "today in a computed format": "{% set f = '%d' %}{{ strftime_now(f) }}\n" + TURNS + ASK,
    "date_string": (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today Date: {{ date_string }}\n" + TURNS + ASK
    ),
    "no system role": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + TURNS
        + ASK
    ),
    "system is dropped": (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
        "{% endif %}{% endfor %}" + ASK
    ),
    "writes bos": "{{ bos_token }}" + TURNS + ASK,
    "thinks unless told": (
        TURNS + ASK + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}"
    ),
    "always thinks": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
}
BROKEN = {
    "repeats": "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "leaves out": "{% for m in messages %}{{ m.role }}{% endfor %}",
    "refuses": "{{ raise_exception('no') }}",
}
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KV = {"num_key_value_heads": 1, "head_dim": 8}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {**SHAPE, "tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**SHAPE, **KV}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {**SHAPE, **KV, "sliding_window": 16}),
    "gpt2": (GPT2Config, GPT2LMHeadModel, {"n_embd": 16, "n_layer": 2, "n_head": 2}),
}


def new_tokenizer(template: str | None, extra: tuple[str, ...] = (), **names: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer. `extra` are added tokens that are not special; `names` are such as eos_token."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]
    if extra:
        wrapped.add_tokens(list(extra))
    wrapped.chat_template = template
    return wrapped


def write_model(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    family: str = "llama",
    stops: int | list[int] | None = None,
    seed: int = 0,
) -> Path:
    """Write a random model and its tokenizer to `folder`, with `stops` as eos_token_id of its generation config."""
    config_class, model_class, shape = FAMILIES[family]
    torch.manual_seed(seed)
    config = config_class(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=None, **shape
    )
    model = model_class(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if stops is not None:
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(settings | {"eos_token_id": stops}))
    return folder
