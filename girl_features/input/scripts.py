"""Unicode scripts of texts: Latin, Cyrillic, Han, Arabic and so on, by the letters of each text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

NO_LETTERS = "none"  # main script of a text without letters

# First word of a character's Unicode name, where it is not the name of the script. Japanese is written in Kana and Han.
_SCRIPTS = {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": "Kana",
    "HENTAIGANA": "Kana",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "MICRO": "Greek",
}
_NO_SCRIPT = {"MODIFIER", "DOUBLE-STRUCK", "MATHEMATICAL"}  # letters that texts of any script use


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """Return the name of the script of a letter; None for a letter of no one script, and for any other character."""
    plain = unicodedata.normalize("NFKC", character)[:1]  # a full-width or bold letter counts as the plain one
    if not plain.isalpha():
        return None
    word = unicodedata.name(plain, "").partition(" ")[0]
    if not word or word in _NO_SCRIPT:
        return None
    return _SCRIPTS.get(word, word.capitalize())


def letters_by_script(text: str) -> Counter[str]:
    """Return the number of letters of `text` in each script."""
    letters: Counter[str] = Counter()
    for character, n in Counter(text).items():
        script = script_of(character)
        if script is not None:
            letters[script] += n
    return letters


def main_script(text: str) -> str:
    """Return the script of most letters of `text`; NO_LETTERS if it has none. Han among Kana is Japanese: Kana."""
    letters = letters_by_script(text)
    if letters["Kana"] * 9 >= letters["Han"] > 0:
        letters["Kana"] += letters.pop("Han")
    letters = +letters
    return max(sorted(letters), key=letters.__getitem__) if letters else NO_LETTERS


def script_shares(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of `texts` in each main script, largest first; the shares sum to 1, or there are none."""
    counts = Counter(map(main_script, texts))
    total = counts.total()
    return {script: n / total for script, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}
