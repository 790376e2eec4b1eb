"""Scripts of CVs that a generator's tokenizer does not know: it spells their letters out byte by byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from girl_features.errors import require
from girl_features.input.scripts import NO_LETTERS, main_script, script_of

MAX_SPELLED = 0.5  # share of a script's letters, as often as they occur, above which the script counts as unknown
_UNKNOWN_TOKENS = ("<unk>", "[UNK]", "<|unk|>")


def read_tokenizer(folder: Path) -> Any | None:
    """Return the fast tokenizer of the model in `folder`; None if the folder has no tokenizer.json."""
    path = folder / "tokenizer.json"
    return require("tokenizers", "generate").Tokenizer.from_file(str(path)) if path.is_file() else None


def spelled_shares(tokenizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """Return, for each script in `texts`, the share of its letters that the tokenizer has no token for.

    Such a letter becomes as many tokens as it has bytes in UTF-8, or the token for the unknown.
    """
    counts = Counter(letter for text in texts for letter in text if script_of(letter) is not None)
    letters = list(counts)
    once = tokenizer.encode_batch(letters, add_special_tokens=False)
    twice = tokenizer.encode_batch([2 * letter for letter in letters], add_special_tokens=False)
    spelled: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for letter, single, double in zip(letters, once, twice, strict=True):
        script = script_of(letter)
        assert script is not None
        total[script] += counts[letter]
        n_tokens = len(double.ids) - len(single.ids)  # the difference leaves out a token that begins every text
        is_unknown = any(token in _UNKNOWN_TOKENS for token in single.tokens)
        if is_unknown or n_tokens >= len(letter.encode()) > 1:
            spelled[script] += counts[letter]
    return {script: spelled[script] / n for script, n in total.most_common()}


def unknown_scripts(tokenizer: Any, cvs: Sequence[str]) -> dict[str, int]:
    """Return the scripts that the tokenizer does not know, each with the number of `cvs` written mainly in it."""
    shares = spelled_shares(tokenizer, cvs)
    mains = Counter(map(main_script, cvs))
    return {
        script: n
        for script, n in mains.most_common()
        if script != NO_LETTERS and _spelled(script, shares) > MAX_SPELLED
    }


def _spelled(script: str, shares: dict[str, float]) -> float:
    return max(shares.get("Kana", 0.0), shares.get("Han", 0.0)) if script == "Kana" else shares.get(script, 0.0)
