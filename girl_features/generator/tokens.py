"""Tokenizers of generators, the tokens that end a JD, and the number of tokens that a model reads at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from girl_features.config import PromptStyle
from girl_features.errors import CheckpointError, reason_of
from girl_features.generator.chat_template import end_of_turn, special_ids
from girl_features.generator.checkpoint import model_folder
from girl_features.generator.prompts import TINY, PromptCodec, end_token, template_for


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`, without remote code. It has an end token and a padding token.

    A tokenizer that names no end token gets that of its chat template, else that of the model's own settings.

    Raises:
        CheckpointError: there is no tokenizer, or nothing says how a text ends.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the loader raises whatever a missing or damaged file leads to
        reason = reason_of(error)
        raise CheckpointError(
            f"{folder} holds no tokenizer that can be loaded ({type(error).__name__}: {reason}); put the model's "
            f"tokenizer files (tokenizer.json, tokenizer_config.json) beside its weights"
        ) from error
    if tokenizer.eos_token_id is None:
        end = end_of_turn(tokenizer) if tokenizer.chat_template else None
        ends = [end] if end is not None else _model_ends(folder, tokenizer)
        if not ends:
            raise CheckpointError(
                f"the tokenizer in {folder} has no end token, so no JD would ever end; set `eos_token` in its "
                f"tokenizer_config.json to the token that ends a text"
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # when generating, it is only used at masked positions
    return tokenizer


def stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Return the tokens that end a JD of the model in `folder`: first the one that training writes, then its others.

    These are the end of turn of the chat template, the tokenizer's end token, and those that the model's own
    generation_config.json names, or its config.json without one. For an adapter, the files of its base count.
    """
    ends = [end_token(tokenizer), tokenizer.eos_token_id, *_model_ends(folder, tokenizer)]
    return list(dict.fromkeys(ends))


def _model_ends(folder: Path, tokenizer: Any) -> list[int]:
    """Return the end tokens that the model's settings name, but no piece of text: defaults of a class may name one."""
    base = str(model_folder(folder))
    try:
        named = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:
        named = None
    if named is None:
        named = load_config(Path(base)).eos_token_id
    ids = [named] if isinstance(named, int) else list(named or [])
    special = special_ids(tokenizer)
    return [token for token in ids if token in special]


def load_config(folder: Path) -> Any:
    """Return the settings of the language model in `folder`.

    Raises:
        CheckpointError: config.json is missing or damaged, or names a kind of model that transformers does not know.
    """
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config()
    except Exception as error:  # the loader raises whatever a missing or damaged file leads to
        reason = reason_of(error)
        raise CheckpointError(
            f"the config.json in {folder} cannot be used ({type(error).__name__}: {reason}); give a folder with a "
            f"causal language model that this version of transformers knows"
        ) from error


def n_positions(config: Any) -> int | None:
    """Return how many tokens a model reads at once; None if it has no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def check_positions(config: Any, n_tokens: int, settings: str) -> None:
    """Check that a model with these settings reads `n_tokens` at once.

    Raises:
        CheckpointError: it reads fewer; the message says to lower `settings`.
    """
    positions = n_positions(config.get_text_config())
    if positions is not None and n_tokens > positions:
        raise CheckpointError(
            f"prompt and JD have up to {n_tokens} tokens, but the base reads {positions} at once; lower {settings}"
        )


def open_codec(folder: Path, max_cv_tokens: int, max_new_tokens: int, style: PromptStyle = "full") -> PromptCodec:
    """Return the codec of the generator in `folder`, whose JDs have at most `max_new_tokens`.

    Raises:
        CheckpointError: there is no tokenizer to use, or prompt and JD are longer than the model reads at once.
    """
    tokenizer = load_tokenizer(folder)
    codec = PromptCodec(tokenizer, max_cv_tokens, stop_ids(folder, tokenizer), style)
    if template_for(tokenizer) != TINY:  # `tiny` has as many positions as its texts had, and no table of them
        config = load_config(model_folder(folder))
        settings = "`generator.max_cv_tokens` or `sampling.max_new_tokens`"
        check_positions(config, codec.longest_prompt + max_new_tokens, settings)
    return codec
