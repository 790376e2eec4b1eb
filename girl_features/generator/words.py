"""Words of a text in any script, counted as a reader would.

Scripts without spaces between words have no sign where a word ends, so each of their characters counts as a word.
"""

from __future__ import annotations

import re

# Ranges for a character class of a regular expression. Thai, Lao, Tibetan, Burmese; Khmer; Tai Lue and Tai Tham; kana
# and Chinese; Burmese extensions; compatibility Chinese; half-width kana; rarer Chinese
UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u312f\u31a0-\u31ff\u3400-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Return the words of `text` that spaces separate, and each character of scripts without such spaces."""
    return _WORD.findall(text)
