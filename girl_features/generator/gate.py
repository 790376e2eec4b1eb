"""The gate that each generated JD passes before it is stored: clean it, and find defects."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from girl_features.generator.words import UNSPACED, words_of

MIN_WORDS = 3
# A text loops if the same runs of LOOP_WORDS words appear LOOP_REPEATS times or more, and such runs make up a share of
# MIN_LOOPED of the text. The share is needed because real JDs repeat phrases such as "years of experience in".
LOOP_WORDS = 4
LOOP_CHARACTERS = 12  # length of a run in scripts without spaces between words
LOOP_REPEATS = 4
MIN_LOOPED = 0.2
MIN_LETTERS = 0.3  # share of letters among characters that are not spaces; in 999 of 1,000 real JDs it exceeds .86

_UNSPACED = re.compile(f"[{UNSPACED}]")
_EDGE = r"(?a:\b)"  # of a word in ASCII letters; a Chinese character beside it is no part of the word
# Markup that appears only when a model fails or follows instructions in a CV. Layout is allowed, such as Markdown
# headings and HTML paragraphs and lists, because real job boards use it.
_MARKUP = re.compile(
    r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|```|"
    rf"</?(?:a|body|embed|html|iframe|img|input|meta|script|style|svg){_EDGE}[^<>]*>|"
    r"</(?:form|link|object)>|<(?:form|link|object)\s[^<>]*=[^<>]*>",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    rf"{_EDGE}(?:ignore|disregard|forget){_EDGE}.{{0,40}}{_EDGE}(?:previous|prior|above|earlier|preceding){_EDGE}"
    rf".{{0,20}}{_EDGE}(?:instruction|prompt|direction|rule)s?{_EDGE}"
    rf"|(?<!such ){_EDGE}as an? (?:ai )?language model,|{_EDGE}the system prompt you{_EDGE}",
    re.IGNORECASE | re.DOTALL,
)


def clean(text: str) -> str:
    """Return `text` in Unicode NFC, without control characters except line ends and tabs, and without broken bytes.

    CVs are cleaned in the same way.
    """
    text = unicodedata.normalize("NFC", text)
    characters = [c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")]
    return "".join(characters).replace("\ufffd", "").strip()


def defect(text: str) -> str | None:
    """Return `empty`, `looping` or `malformed` for a defective text, and None for a good one.

    The text alone does not tell if it was cut off: see `finish_reason` of GeneratedText.
    """
    n_unspaced = len(_UNSPACED.findall(text))
    if len(words_of(text)) < MIN_WORDS:
        return "empty"
    if 2 * n_unspaced > len(text):
        is_looping = _is_looping(list("".join(text.split())), LOOP_CHARACTERS)
    else:
        is_looping = _is_looping(text.split(), LOOP_WORDS)
    if is_looping:
        return "looping"
    return "malformed" if _is_malformed(text) else None


def _is_looping(units: list[str], run_length: int) -> bool:
    """True if repeated runs of `run_length` words or characters make up too much of a text."""
    runs = [tuple(units[start : start + run_length]) for start in range(len(units) - run_length + 1)]
    counts = Counter(runs)
    looped: set[int] = set()  # positions of units inside a repeated run
    for start, run in enumerate(runs):
        if counts[run] >= LOOP_REPEATS:
            looped.update(range(start, start + run_length))
    return bool(looped) and len(looped) >= MIN_LOOPED * len(units)


def _is_malformed(text: str) -> bool:
    """True if `text` has few letters, is JSON, or holds markup, control tokens or instructions to a model."""
    solid = "".join(text.split())
    n_letters = sum(unicodedata.category(character)[0] in "LM" for character in solid)
    if n_letters < MIN_LETTERS * len(solid):
        return True
    is_json = solid.startswith(('{"', "[{", '["')) and solid[-1] in "}]"
    return is_json or _MARKUP.search(text) is not None or _ORDERS.search(text) is not None
