"""Small random base models of the families that people use, with the chat templates of those families, shortened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TEXTS = ["cook in a kitchen, soups and sauces", "nurse on a ward, night shifts", "driver of a lorry, parcels"]
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
POSITIONS = 512

_TURN = "'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'"
_ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
CHATML = f"{{% for m in messages %}}{{{{ {_TURN} }}}}{{% endfor %}}{_ANSWER}{{% endif %}}"
SMOLLM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM"
    "<|im_end|>\n' }}{% endif %}" + CHATML
)
QWEN3 = CHATML.replace(
    "assistant\n' }}",
    "assistant\n' }}{% if not enable_thinking | default(true) %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
THINKING = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
_LLAMA3_TURN = "'<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|eot_id|>'"
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ 'Today Date: ' + date_string + '\n\n' }}"
    f"{{% for m in messages %}}{{{{ {_LLAMA3_TURN} }}}}{{% endfor %}}{_ANSWER}{{% endif %}}"
)
TODAY = "{{ 'The current date is ' + strftime_now('%Y-%m-%d') + '. ' }}" + CHATML
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
USERS_ONLY = CHATML.replace("for m in messages", "for m in messages if m['role'] != 'system'")
REPEATING = CHATML.replace("m['content'] +", "m['content'] + m['content'] +")
ESCAPING = CHATML.replace("m['content']", "m['content'] | tojson")
SHOUTING = CHATML.replace("m['content']", "m['content'] | upper")
BROKEN = "{{ raise_exception('no template today') }}"


def small_tokenizer(
    template: str | None = None,
    *,
    bos: str | None = "<s>",
    eos: str | None = "</s>",
    pad: str | None = None,
    adds_bos: bool = False,
) -> Any:
    """Return a byte-level tokenizer with the special tokens of several families; `adds_bos` is a post-processor's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=330, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer=trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    given = {name: token for name, token in names.items() if token is not None}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **given)
    fast.chat_template = template
    return fast


def family_config(family: str, n_tokens: int, **changes: Any) -> Any:
    """Return the settings of a small model of a family."""
    llama = {"vocab_size": n_tokens, "max_position_embeddings": POSITIONS, **SHAPE, **changes}
    if family == "gpt2":
        return GPT2Config(
            vocab_size=n_tokens, n_embd=32, n_layer=2, n_head=2, n_positions=POSITIONS, bos_token_id=1, eos_token_id=2
        )
    if family == "gemma3":
        layers = {"layer_types": ["full_attention"] * 2, "num_key_value_heads": 1, "head_dim": 16}
        return Gemma3TextConfig(**layers | llama)
    if family in ("qwen3", "qwen2"):
        kind = {"qwen3": Qwen3Config, "qwen2": Qwen2Config}[family]
        return kind(**llama, num_key_value_heads=1, **({"head_dim": 16} if family == "qwen3" else {}))
    return {"llama": LlamaConfig, "phi": PhiConfig}[family](**llama)


def save_base(
    folder: Path,
    tokenizer: Any = None,
    *,
    family: str = "llama",
    ends: int | Sequence[int] | None = None,
    seed: int = 0,
    shard: str | None = None,
    **changes: Any,
) -> Path:
    """Write a random base model into `folder`; `ends` are the end tokens of its generation settings."""
    tokenizer = small_tokenizer() if tokenizer is None else tokenizer
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(family_config(family, len(tokenizer), **changes))
    if ends is not None:
        model.generation_config.eos_token_id = ends
    model.save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
    tokenizer.save_pretrained(folder)
    return folder
