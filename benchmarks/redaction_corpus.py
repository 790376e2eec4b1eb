"""Sentences in ten scripts with contact details, and with numbers and signs that only look like them.

The templates are in the folder redaction_data. The rules were written with one part of them; the other is held out. Of
sentences and contact details, those at odd positions of their list are held out; numbers have two lists.
"""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from girl_features.generator.gate import clean

KINDS = ("phone", "email", "link")
PARTS = ("rules", "held-out")
Part = Literal["rules", "held-out"]
_FOLDER = Path(__file__).parent / "redaction_data"
UNSPACED = ("thai", "han", "japanese", "hangul")  # scripts in which a word may follow an address of the script directly
_TEMPLATES: dict[str, dict[str, Any]] = yaml.safe_load((_FOLDER / "templates.yaml").read_text("utf-8"))
_NUMBERS: dict[str, list[str]] = yaml.safe_load((_FOLDER / "numbers.yaml").read_text("utf-8"))
SCRIPTS = tuple(_TEMPLATES)


class Sentence(NamedTuple):
    """A sentence, and the place of its contact detail."""

    script: str
    kind: str  # `phone`, `email`, `link`, or `none` for a sentence without a contact detail
    text: str
    start: int  # 0 without a contact detail
    end: int
    format: str  # what the contact detail or the number was made from


def contact_sentences(part: Part, per_kind: int, seed: int) -> list[Sentence]:
    """Return `per_kind` sentences of each script and kind of contact detail."""
    rng = random.Random(f"{seed} contacts {part}")
    return [_contact_sentence(rng, script, kind, part) for script in SCRIPTS for kind in KINDS for _ in range(per_kind)]


def plain_sentences(part: Part, per_script: int, seed: int) -> list[Sentence]:
    """Return `per_script` sentences of each script that hold no contact detail."""
    rng = random.Random(f"{seed} plain {part}")
    sentences = []
    for script in SCRIPTS:
        for _ in range(per_script):
            number = rng.choice(_NUMBERS[part])
            filled = _in_digits(rng, script, _filled(rng, number))
            before, after = _half(_TEMPLATES[script]["plain_sentences"], part, rng).split("{x}")
            if rng.random() < 0.5:
                before, after = _glued(before, after)
            sentences.append(Sentence(script, "none", clean(before + filled + after), 0, 0, number))
    return sentences


def bare_numbers(seed: int) -> list[Sentence]:
    """Return each format of phone numbers in each kind of digits of its script, with nothing around it."""
    rng = random.Random(f"{seed} bare")
    sentences = []
    for script in SCRIPTS:
        for number in _TEMPLATES[script]["phones"]:
            for digits in _TEMPLATES[script]["digits"]:
                text = _filled(rng, number).translate(str.maketrans("0123456789", digits))
                sentences.append(Sentence(script, "phone", text, 0, len(text), number))
    return sentences


def _contact_sentence(rng: random.Random, script: str, kind: str, part: Part) -> Sentence:
    """Half of the sentences have no spaces around the contact detail where letters of the script stand."""
    templates = _TEMPLATES[script]
    is_local = kind == "email" and "local_emails" in templates and rng.random() < 0.25
    contact = _half(templates["local_emails" if is_local else f"{kind}s"], part, rng)
    before, after = _half(templates[f"{kind}_sentences"], part, rng).split("{x}")
    if rng.random() < 0.5:
        glued = _glued(before, after)
        if not is_local:
            before, after = glued
        elif script in UNSPACED:  # without a space before the address, nobody can tell where it begins
            after = glued[1]
    if is_local and unicodedata.category(before[-1:] or " ")[0] in "LM":
        before += " "
    filled = _filled(rng, contact)
    if kind == "phone":
        filled = _in_digits(rng, script, filled)
    before, filled = unicodedata.normalize("NFC", before).lstrip(), unicodedata.normalize("NFC", filled)
    text = clean(before + filled + unicodedata.normalize("NFC", after))
    assert text[len(before) :].startswith(filled), text
    return Sentence(script, kind, text, len(before), len(before) + len(filled), contact)


def _half(entries: list[str], part: Part, rng: random.Random) -> str:
    """Return a random entry of one half."""
    return rng.choice(entries[PARTS.index(part) :: 2])


def _glued(before: str, after: str) -> tuple[str, str]:
    """Remove spaces next to the place, but not between a Latin letter, a digit or a full stop and it."""
    if _may_touch(before.rstrip()[-1:]):
        before = before.rstrip()
    if _may_touch(after.lstrip()[:1]):
        after = after.lstrip()
    return before, after


def _may_touch(character: str) -> bool:
    return character in (":", ",", "(", ")", ";") or not (character.isascii() or "LATIN" in unicodedata.name(character))


def _filled(rng: random.Random, template: str) -> str:
    """Replace the signs of a format by random digits and dates."""
    for sign, values in (("{Y}", range(1995, 2030)), ("{M}", range(1, 13)), ("{D}", range(1, 29))):
        while sign in template:
            template = template.replace(sign, f"{rng.choice(values):02d}", 1)
    template = template.replace("{#}", "\0")
    digits = {"#": "0123456789", "N": "23456789"}
    is_number = not any(c.isalpha() and c != "N" for c in template)
    return "".join(
        rng.choice(digits[c]) if c == "#" or (c == "N" and (is_number or _among_digits(template, i))) else c
        for i, c in enumerate(template)
    ).replace("\0", "#")


def _among_digits(template: str, i: int) -> bool:
    """True if the N at `i` stands beside a digit, a sign of a digit or a separator, and not in a word."""
    around = (template[i - 1 : i], template[i + 1 : i + 2])
    return not any(c.isalpha() and c != "N" for c in around) and any(c.isdigit() or c in "#.N" for c in around if c)


def _in_digits(rng: random.Random, script: str, number: str) -> str:
    """Write a number in one of the digits of the script. ASCII digits stay beside ASCII letters."""
    digits = rng.choice(_TEMPLATES[script]["digits"])
    if any(c.isascii() and c.isalpha() for c in number):
        return number
    return number.translate(str.maketrans("0123456789", digits))
