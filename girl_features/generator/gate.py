"""What a generated JD must be to be stored as a feature."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

MIN_WORDS = 3
LOOP_WORDS = 4  # a loop is a run of this many words ...
LOOP_CHARACTERS = 12  # ... or, in scripts that put no spaces between words, of this many characters ...
LOOP_REPEATS = 4  # ... standing this often or more in one text ...
MIN_LOOPED = 0.2  # ... and such runs making up this share of it: real JDs say "years of experience in" line after line
MIN_LETTERS = 0.3  # share of what is not space; 999 of 1,000 real JDs have more than .86

# scripts without spaces between words: Thai, Lao, Khmer, kana, Chinese
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# what no JD says but a model that lost its thread, or was told to by a CV, does; not what only lays a text out, as
# headings of Markdown and HTML's paragraphs and lists do: whole job boards are written so
_MARKUP = re.compile(
    r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|```|"
    r"</?(?:a|body|embed|html|iframe|img|input|meta|script|style|svg)\b[^<>]*>|"
    r"</(?:form|link|object)>|<(?:form|link|object)\s[^<>]*=[^<>]*>",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:previous|prior|above|earlier|preceding)\b.{0,20}"
    r"\b(?:instruction|prompt|direction|rule)s?\b|(?<!such )\bas an? (?:ai )?language model,|\bthe system prompt you\b",
    re.IGNORECASE | re.DOTALL,
)


def clean(text: str) -> str:
    """`text` as CVs are cleaned: Unicode NFC, no control characters but line ends and tabs, no broken bytes."""
    kept = (c for c in unicodedata.normalize("NFC", text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return "".join(kept).replace("\ufffd", "").strip()


def defect(text: str) -> str | None:
    """`empty`, `looping` or `malformed` where the text is, else None. Whether it was finished is not its to say."""
    unspaced = len(_UNSPACED.findall(text))
    if len(text.split()) + unspaced < MIN_WORDS:
        return "empty"
    if _loops(text, by_character=2 * unspaced > len(text)):
        return "looping"
    return "malformed" if _is_malformed(text) else None


def _loops(text: str, *, by_character: bool) -> bool:
    units = list("".join(text.split())) if by_character else text.split()
    length = LOOP_CHARACTERS if by_character else LOOP_WORDS
    runs = [tuple(units[start : start + length]) for start in range(len(units) - length + 1)]
    counts = Counter(runs)
    looped = {start + i for start, run in enumerate(runs) if counts[run] >= LOOP_REPEATS for i in range(length)}
    return len(looped) >= MIN_LOOPED * len(units) and bool(looped)


def _is_malformed(text: str) -> bool:
    """Whether it holds markup, a model's own control words or orders to one, or is JSON, or hardly has letters."""
    solid = "".join(text.split())
    n_letters = sum(unicodedata.category(c)[0] in "LM" for c in solid)
    if n_letters < MIN_LETTERS * len(solid):
        return True
    is_json = solid.startswith(('{"', "[{", '["')) and solid[-1] in "}]"
    return is_json or _MARKUP.search(text) is not None or _ORDERS.search(text) is not None
