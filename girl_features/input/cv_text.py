"""A CV that comes with a request, cleaned as `checks.py` cleans those of the tables: equal texts have equal hashes."""

from __future__ import annotations

import re
import unicodedata

from girl_features.input.checks import MAX_TEXT_CHARS

_LINE_BREAKS = re.compile("[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, which no table can hold


def clean_cv(text: str) -> str:
    """`text` cut to MAX_TEXT_CHARS, without control characters, in Unicode NFC; empty if blank."""
    text = _SURROGATES.sub("\ufffd", text[:MAX_TEXT_CHARS])
    text = _CONTROLS.sub("", _LINE_BREAKS.sub("\n", text))
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    return "" if _is_blank(text) else text


def _is_blank(text: str) -> bool:
    """As the pattern BLANK of `checks.py`."""
    return all(c in " \t\n\r\f\v" or unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cf") for c in text)
