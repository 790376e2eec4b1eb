"""Cleaning of CVs and JDs, as SQL for the input tables and in Python for the CV of a request.

Both must give the same result, because a CV is recognized by the hash of its cleaned text.
"""

from __future__ import annotations

import re
import unicodedata

from girl_features.input.html_text import html_to_text

MAX_TEXT_CHARS = 1_000_000  # characters of one CV or JD; the rest is cut, and the cut is counted

# Control characters to remove: all of Unicode's class Cc but tab, line feed and carriage return. Those that break
# lines (vertical tab, form feed, next line) are first replaced by a line feed, so that words stay separate.
_SQL_LINE_BREAKS = r"[\x0b\x0c\x{85}]"
SQL_CONTROLS = r"[\x00-\x08\x0e-\x1f\x7f-\x{9f}]"
SQL_ANY_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"
# Characters, other than the controls above, that NFC never changes, whatever stands next to them. A text of only
# these characters is clean already.
SQL_CLEAN_CHARACTERS = (
    r"\t\n\r\x20-\x7e\x{a0}-\x{2ff}\x{400}-\x{482}"
    r"\x{2010}-\x{205e}\x{20a0}-\x{20bf}\x{25a0}-\x{25ff}\x{4e00}-\x{9fff}"
)
SQL_BLANK = r"[\s\p{Z}\p{Cf}]*"

_LINE_BREAKS = re.compile("[\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, which cannot occur in a table


def cleaning_sql(text: str, is_suspect: str, has_controls: str) -> str:
    """Return SQL that removes control characters from `text` and normalizes it to Unicode NFC.

    Args:
        text: SQL of the text.
        is_suspect: SQL of a bool: the text has characters beyond SQL_CLEAN_CHARACTERS. Other texts stay as they are.
        has_controls: SQL of a bool: the text has control characters, so that they must be removed.
    """
    without_controls = (
        f"CASE WHEN {has_controls} THEN regexp_replace(regexp_replace({text}, '{_SQL_LINE_BREAKS}', chr(10), 'g'), "
        f"'{SQL_CONTROLS}', '', 'g') ELSE {text} END"
    )
    return f"CASE WHEN {is_suspect} THEN nfc_normalize({without_controls}) ELSE {text} END"


def clean_cv(text: str, strip_html: bool = False) -> str:
    """Return `text` cut to MAX_TEXT_CHARS, without control characters, in Unicode NFC; empty if it is blank.

    `strip_html` is the setting of that name of the table job_seekers: the table's CVs are cleaned in the same way.
    """
    text = _SURROGATES.sub("\ufffd", text[:MAX_TEXT_CHARS])
    text = html_to_text(text) if strip_html else text
    text = _CONTROLS.sub("", _LINE_BREAKS.sub("\n", text))
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    # as the pattern SQL_BLANK
    is_blank = all(c in " \t\n\r\f\v" or unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cf") for c in text)
    return "" if is_blank else text
