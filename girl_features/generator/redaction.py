"""Contact details in a generated JD: blacked out before it is stored, and counted.

A generator may repeat what stands in the CV. E-mail addresses, phone numbers and links are found by their form,
whoever's they are; names and street addresses have none, and are not found.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EMAIL = re.compile(r"[\w.+%'-]{1,64}\s?(?:@|\uff20|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}", re.IGNORECASE)
_LINK = re.compile(
    r"\b(?:https?://|www\.|(?:linkedin|github|facebook|twitter|x)\.com/)[^\s<>\"')\]]{1,2000}", re.IGNORECASE
)
# with a country code or a leading zero, in the North American form, or ten digits and more in one piece
_PHONE = re.compile(
    r"(?<![\w.,$\u20ac\u00a3])(?:"
    r"\+\s?\(?\d(?:[\s.()/-]{0,3}\d){7,14}"
    r"|\(?0\d(?:[ .()/-]{0,2}\d){7,12}"
    r"|(?:1[ .-])?\(?\d{3}\)?[ .-]{0,2}\d{3}[ .-]\d{4}"
    r"|\d{10,15}"
    r")(?!\w)"
)
_FORMS = ((_EMAIL, "[email]"), (_LINK, "[link]"), (_PHONE, "[phone]"))


class Redacted(NamedTuple):
    """A text without contact details."""

    text: str
    n_found: int


def redact(text: str) -> Redacted:
    """`text` with `[email]`, `[phone]` and `[link]` where such a thing stood, and how many there were."""
    n_found = 0
    for form, mark in _FORMS:
        text, n = form.subn(mark, text)
        n_found += n
    return Redacted(text, n_found)
