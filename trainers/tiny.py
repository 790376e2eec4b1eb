"""The embedded base `tiny`: a byte-level BPE tokenizer from the user's own texts, and a small Llama.

Its token vectors start as those of a sentence encoder, projected: related words begin life near each other, which a
few thousand pairs could not teach. All other weights are random (docs/results/tiny.md has what this is worth).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from girl_features.config import TinyConfig
from girl_features.encoder import find_encoder_folder
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN

PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
NOISE = 0.25  # of the vectors' standard deviation: `Cook`, ` cook` and `cook` begin near each other, not as one


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens; no text is out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, END_TOKEN, CV_TOKEN, JD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        extra_special_tokens=[CV_TOKEN, JD_TOKEN],
        clean_up_tokenization_spaces=False,
    )


def new_decoder(tokenizer: PreTrainedTokenizerFast, shape: TinyConfig, max_tokens: int, seed: int) -> Any:
    """A Llama of the given shape, its random weights drawn from `seed` alone."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.hidden_size * 8 // 3,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_heads,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
        if shape.embeddings_from is not None:
            with torch.no_grad():
                warm_start(model.get_input_embeddings().weight, tokenizer, shape.embeddings_from)
    return model


def warm_start(own: Tensor, tokenizer: Any, encoder: str) -> None:
    """Overwrite the random (v, h) token vectors `own` by the encoder's for the same text, where it has any.

    A token of several word pieces gets their mean. The vectors are projected to their first h principal components
    and scaled to the standard deviation that `own` had; NOISE keeps the spellings of one word apart.
    """
    folder = str(find_encoder_folder(encoder))
    pieces: Tensor = AutoModel.from_pretrained(folder, use_safetensors=True).get_input_embeddings().weight
    theirs = AutoTokenizer.from_pretrained(folder)
    ids = [piece_ids(theirs, tokenizer.decode([token])) for token in range(len(own))]
    known = torch.tensor([bool(found) for found in ids])
    vectors = torch.stack([pieces[found].mean(0) for found in ids if found])  # (k, d)
    vectors = vectors - vectors.mean(0)
    _, _, components = torch.linalg.svd(vectors, full_matrices=False)
    vectors = vectors @ components[: own.shape[1]].T  # (k, min(h, d))
    spread = own.std()
    own[known, : vectors.shape[1]] = vectors / vectors.std() * spread
    own[known] += NOISE * spread * torch.randn(int(known.sum()), own.shape[1])


def piece_ids(tokenizer: Any, text: str) -> list[int]:
    """The encoder's ids of a token's text; none for special tokens, blanks and parts of characters."""
    word = text.strip()
    if not word or word.startswith("<|") or "\ufffd" in word:
        return []
    if word == text and word.isalpha() and word.islower():  # perhaps the inner part of a word
        inner = tokenizer.convert_tokens_to_ids(f"##{word}")
        if inner not in (None, tokenizer.unk_token_id):
            return [inner]
    ids: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
    return [i for i in ids if i != tokenizer.unk_token_id]
