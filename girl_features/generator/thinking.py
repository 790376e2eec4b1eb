"""Thinking that a model writes before its answer, in tags or in a channel of its own. It is no part of a JD."""

from __future__ import annotations

import re

_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
_CLOSED = re.compile(rf"<(?P<tag>{_TAG})>.*?</(?P=tag)>|\[THINK\].*?\[/THINK\]", re.DOTALL)
_CLOSING = re.compile(rf"</{_TAG}>|\[/THINK\]")
_OPENING = re.compile(rf"<{_TAG}>|\[THINK\]")
# gpt-oss: `<|channel|>analysis<|message|>thinking<|end|><|start|>assistant<|channel|>final<|message|>answer`
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>(?P<name>\w+)[^<]*<\|message\|>(?P<text>.*?)"
    r"(?=<\|end\|>|<\|return\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)


def without_thinking(text: str) -> str:
    """Return `text` without its thinking parts. One without an end reaches to the end of the text.

    A text whose thinking was opened by the prompt begins with it: all up to its end is left out.
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        text = "".join(match["text"] for match in channels if match["name"] == "final")
    text = _CLOSED.sub("", text)
    ends = list(_CLOSING.finditer(text))
    if ends:
        text = text[ends[-1].end() :]
    opening = _OPENING.search(text)
    return text[: opening.start()] if opening else text
