"""The embedded base `tiny`: a small Llama with a byte-level BPE tokenizer trained on the user's texts.

Its token vectors start as projections of a sentence encoder's word vectors, so that related words are near each other
from the start; a few thousand pairs could not teach that (docs/results/tiny.md). All other weights start at random.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from girl_features.config import TinyConfig
from girl_features.encoder import (
    check_weights,
    find_encoder_folder,
    is_static,
    load_table,
    words_folder,
)
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN

PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
NOISE = 0.25  # in standard deviations: `Cook`, ` cook` and `cook` start near each other, but not with equal vectors


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most `vocab_size` tokens. It can encode any text."""
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
    """Return a new Llama of the given shape, whose random weights depend on `seed` alone."""
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


def warm_start(token_vectors: Tensor, tokenizer: Any, encoder: str) -> None:
    """Overwrite random (v, h) token vectors, in place, by the sentence encoder's vectors for the same texts.

    A token without a text that the encoder knows keeps its random vector. One of several word pieces gets their mean.
    The new vectors are projected to their first h principal components and scaled to the standard deviation of the
    random ones; NOISE separates the spellings of one word.
    """
    pieces, encoder_tokenizer = _word_vectors(find_encoder_folder(encoder))
    ids_by_token = [piece_ids(encoder_tokenizer, tokenizer.decode([token])) for token in range(len(token_vectors))]
    known = torch.tensor([bool(ids) for ids in ids_by_token])
    vectors = torch.stack([pieces[ids].mean(0) for ids in ids_by_token if ids])  # (k, d)
    vectors = vectors - vectors.mean(0)
    _, _, components = torch.linalg.svd(vectors, full_matrices=False)
    vectors = vectors @ components[: token_vectors.shape[1]].T  # (k, min(h, d))
    spread = token_vectors.std()
    token_vectors[known, : vectors.shape[1]] = vectors / vectors.std() * spread
    token_vectors[known] += NOISE * spread * torch.randn(int(known.sum()), token_vectors.shape[1])


def _word_vectors(folder: Path) -> tuple[Tensor, Any]:
    """Return the (p, d) vectors of a sentence encoder's word pieces, and its tokenizer.

    Raises:
        CheckpointError: the weights of the encoder are no safetensors.
    """
    check_weights(folder)
    if not is_static(folder):
        words = str(words_folder(folder))
        model = AutoModel.from_pretrained(words, use_safetensors=True, trust_remote_code=False)
        return model.get_input_embeddings().weight, AutoTokenizer.from_pretrained(words)
    table = load_table(folder)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=table.tokenizer)  # type: ignore[no-untyped-call]
    tokenizer.unk_token = next((name for name in ("[UNK]", "<unk>") if name in tokenizer.get_vocab()), None)
    return table.embedding.weight.detach(), tokenizer


def piece_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the encoder's ids of a token's text; none for special tokens, blanks and parts of characters."""
    word = text.strip()
    if not word or word.startswith("<|") or "\ufffd" in word:
        return []
    if word == text and word.isalpha() and word.islower():  # perhaps the inner part of a word
        inner = tokenizer.convert_tokens_to_ids(f"##{word}")
        if inner not in (None, tokenizer.unk_token_id):
            return [inner]
    ids: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
    return [i for i in ids if i != tokenizer.unk_token_id]
