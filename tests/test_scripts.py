from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.input.scripts import NO_LETTERS, letters_by_script, main_script, script_of, script_shares

# the Unicode standard's names of scripts; ours joins the two of Japanese
KANA = {"Hiragana": "Kana", "Katakana": "Kana"}
SCRIPTS = [
    "Latin",
    "Cyrillic",
    "Greek",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Tamil",
    "Telugu",
    "Thai",
    "Georgian",
    "Armenian",
    "Ethiopic",
    "Khmer",
    "Lao",
    "Sinhala",
    "Gujarati",
    "Kannada",
    "Malayalam",
    "Myanmar",
    "Tibetan",
    "Mongolian",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_letters_have_the_script_that_unicode_gives_them(script: str) -> None:
    regex = pytest.importorskip("regex")
    pattern = regex.compile(rf"\p{{Script={script}}}")
    letters = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isalpha() and pattern.match(c)]
    known = [c for c in letters if unicodedata.name(c, "")]  # the two may be of different Unicode versions
    right = [c for c in known if script_of(c) == KANA.get(script, script)]
    assert len(known) > 30
    assert len(right) >= 0.98 * len(known), [unicodedata.name(c) for c in known if c not in right][:20]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Welder, 5 years", "Latin"),
        ("сварщик с опытом, MIG", "Cyrillic"),
        ("五年焊接经验 (TIG)", "Han"),
        ("溶接の経験が五年あります", "Kana"),
        ("용접공 5년", "Hangul"),
        ("لحام خمس سنوات", "Arabic"),
        ("Welder 5", "Latin"),  # full width
        ("5 +49 (0) 30/123", NO_LETTERS),
        ("", NO_LETTERS),
    ],
)
def test_the_main_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_shares_sum_to_one_and_count_every_text(texts: list[str]) -> None:
    shares = script_shares(texts)
    assert sum(shares.values()) == pytest.approx(1 if texts else 0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares == script_shares(reversed(texts))
    for text in texts:
        assert shares[main_script(text)] > 0
        assert letters_by_script(text).total() <= len(text)
