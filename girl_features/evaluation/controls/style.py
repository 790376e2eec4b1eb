"""Style of a text without its content: function words, punctuation and casing.

If such tokens alone tell matched pairs from others, then CV and JD of a match were written by the same person or
program, and a gain of a text feature may be recognition of the author.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path

import yaml

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|\n+|[^\w\s]|_+")


def style_tokens(text: str) -> list[str]:
    """Return the tokens of `text` in order, with every content word replaced by its casing.

    Function words stay as they are, as do punctuation marks. Another word becomes `/a`, `/Aa`, `/AA` or `/aA`, a number
    `/9`, and a line break `/n`.
    """
    known = function_words()
    return [_style(token, known) for token in _TOKEN.findall(_without_marks(text))]


def _without_marks(text: str) -> str:
    """Return the text with accents joined to their letters, and without the marks that join no letter."""
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", text)
    return "".join(sign for sign in composed if not unicodedata.category(sign).startswith("M"))


@cache
def function_words() -> frozenset[str]:
    """Return the function words of all known languages in lower case."""
    languages = yaml.safe_load(Path(__file__).with_name("function_words.yaml").read_text(encoding="utf-8"))
    return frozenset(word for words in languages.values() for word in words.split())


def _style(token: str, known: frozenset[str]) -> str:
    first = token[0]
    if first == "\n":
        return "/n"
    if first.isdigit():
        return "/9"
    if not first.isalpha():
        return token
    is_shouted = len(token) > 1 and token.isupper()  # IT and US are no pronouns
    if not is_shouted and token.casefold().replace("’", "'") in known:
        return token
    if token.islower() or token.upper() == token.lower():  # or a script without cases
        return "/a"
    if token.isupper():
        return "/AA"
    return "/Aa" if first.isupper() and token[1:].islower() else "/aA"
