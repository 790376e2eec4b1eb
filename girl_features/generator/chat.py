"""Chat templates of models, rendered once around a mark and then kept as fixed text.

Whatever a template adds by itself must be the same every night, since the fixed text is part of the contract: a date is
that of FIXED_DAY, and a model that can think before it answers is asked not to.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from girl_features.errors import CheckpointError

FIXED_DAY = datetime(2025, 1, 1, tzinfo=UTC)
_ASKS_TIME = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_NAMES = ("think", "thinking", "thought", "reasoning")
THINKING_STARTS = tuple(f"<{name}>" for name in _NAMES)
THINKING_ENDS = tuple(f"</{name}>" for name in _NAMES)
_START = f"<({'|'.join(_NAMES)})>"
_OPEN = re.compile(rf"{_START}\s*$")  # a generation prompt that starts the thinking itself
_CLOSED = re.compile(rf"{_START}.*?</\1>", re.DOTALL)
_UNOPENED = re.compile(rf"^.*</(?:{'|'.join(_NAMES)})>", re.DOTALL)
_UNCLOSED = re.compile(rf"{_START}.*$", re.DOTALL)


def render(tokenizer: Any, messages: list[dict[str, str]], *, ask: bool) -> str:
    """Return `messages` in the chat template of the tokenizer, with the beginning of an answer if `ask`.

    Raises:
        CheckpointError: the template refuses the messages.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=_on_fixed_day(tokenizer.get_chat_template()),
            add_generation_prompt=ask,
            tokenize=False,
            enable_thinking=False,
            thinking=False,
            date_string=FIXED_DAY.strftime("%d %b %Y"),
        )
    except Exception as error:  # templates are programs, and raise what they like
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the chat template of the model refuses the prompt ({reason})") from error
    unanswered = _OPEN.search(text) if ask else None
    return f"{text.rstrip()}\n\n</{unanswered[1]}>\n\n" if unanswered else text


def _on_fixed_day(template: str) -> str:
    """Return the text of a template that asks for the time, with FIXED_DAY in the place of each question."""
    template = _ASKS_TIME.sub(lambda asked: repr(FIXED_DAY.strftime(asked[2])), template)
    if "strftime_now(" in template:  # with a format that is computed
        template = f"{{%- macro strftime_now(f) -%}}{FIXED_DAY:%d %b %Y}{{%- endmacro -%}}{template}"
    return template


def split_prompt(tokenizer: Any, role: str, instruction: str, mark: str) -> tuple[str, str]:
    """Return the text before and after `mark`, the place of the CV, in a chat that asks for an answer.

    The `role` is the system message where the template has one, and the start of the user's message elsewhere.

    Raises:
        CheckpointError: the template leaves out, repeats or changes what the user says.
    """
    chats = [
        [{"role": "system", "content": role}, {"role": "user", "content": f"{instruction}\n\n{mark}"}],
        [{"role": "user", "content": f"{role}\n{instruction}\n\n{mark}"}],
    ]
    problem = "it leaves out, repeats or changes the user's message"
    for chat in chats:
        try:
            text = render(tokenizer, chat, ask=True)
        except CheckpointError as error:
            problem = str(error)
            continue
        if all(text.count(part) == 1 for part in (role, instruction, mark)):
            before, _, after = text.partition(mark)
            return before, after
    raise CheckpointError(f"the chat template of the model cannot be used: {problem}; set `generator.base` to another")


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the special token that the chat template writes right after an answer; None if there is none."""
    mark = "\x02JD\x03"
    try:
        text = render(tokenizer, [{"role": "user", "content": "CV"}, {"role": "assistant", "content": mark}], ask=False)
    except CheckpointError:
        return None
    after = text.rpartition(mark)[2] if mark in text else ""
    ids: list[int] = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]
    return ids[0] if ids and ids[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder) else None


def without_thinking(text: str) -> str:
    """Return `text` without what the model thought before it answered; what was never ended is left out, too."""
    if not any(mark in text for mark in (*THINKING_STARTS, *THINKING_ENDS)):
        return text
    return _UNCLOSED.sub("", _UNOPENED.sub("", _CLOSED.sub("", text))).strip()
