"""Tokens that end a JD: the one that training writes, and all at which generation stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from girl_features.errors import CheckpointError
from girl_features.generator.chat import end_of_turn
from girl_features.generator.checkpoint import adapter_base, is_adapter


def end_token(tokenizer: Any) -> int:
    """Return the token that ends a JD in training: that of the chat template's turns, else the end of a text.

    Raises:
        CheckpointError: the tokenizer has neither.
    """
    found = end_of_turn(tokenizer) if tokenizer.chat_template else None
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise CheckpointError(
            "the tokenizer of the model has no end token, so no JD would ever end: set `eos_token` in its "
            "tokenizer_config.json, or set `generator.base` to another model"
        )
    return int(found)


def stop_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """Return the tokens at which a JD ends: `end_token`, the tokenizer's own, and those that the model names.

    Models for chats name several in `eos_token_id` of generation_config.json. An adapter has those of its base.
    """
    stops = [end_token(tokenizer), *_as_list(tokenizer.eos_token_id)]
    for place in [folder, adapter_base(folder)] if is_adapter(folder) else [folder]:
        for name in ("generation_config.json", "config.json"):
            stops += _as_list(_settings(place / name).get("eos_token_id"))
    return list(dict.fromkeys(stops))


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _as_list(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, list) else [int(value)]
