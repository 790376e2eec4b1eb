"""Chat templates of base models: conversations as text that is the same on every day and starts no thinking."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from girl_features.errors import CheckpointError, reason_of

# Some templates write the date of the day. With a new prompt every day, a generator that was tuned yesterday would
# not read the prompts that it was tuned on, and every night would have a contract of its own.
FIXED_DAY = datetime(2024, 7, 26)  # where Llama's own templates are given no date, they write this one
_DIRECTIVES = ("%-d", "%-m", "%Y", "%y", "%m", "%d", "%e", "%B", "%b", "%A", "%a", "%j", "%H", "%I", "%M", "%S", "%p")
_CLOCK = "strftime_now"  # function of templates that asks for the day
_MARK = "\x02CV\x03"  # stands for a text while a template is rendered
_OPEN_THINKING = re.compile(r"(?:<(?:think|thinking)>|\[THINK\])\s*\Z")
_CLOSING = {"<think>": "</think>", "<thinking>": "</thinking>", "[THINK]": "[/THINK]"}


class ChatPrompt(NamedTuple):
    """The text of a conversation around the place of the CV, up to where the model answers."""

    before_cv: str
    after_cv: str
    has_system: bool  # the role is a system message; else it is the start of the user's message


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, for_answer: bool) -> str:
    """Return `messages` as the chat template writes them, on a fixed day and with thinking switched off.

    With `for_answer` the text ends where the answer begins. A thinking part that the template opens there is closed.
    """
    asks_for_day = _CLOCK in str(tokenizer.chat_template)
    text = str(
        tokenizer.apply_chat_template(
            list(messages),
            chat_template=_fixed_clock() + tokenizer.get_chat_template() if asks_for_day else None,
            add_generation_prompt=for_answer,
            tokenize=False,
            enable_thinking=False,
            thinking=False,
            date_string=FIXED_DAY.strftime("%d %b %Y"),
        )
    )
    opened = _OPEN_THINKING.search(text) if for_answer else None
    if opened is None:
        return text
    tag = opened.group().strip()
    return f"{text[: opened.start()]}{tag}\n\n{_CLOSING[tag]}\n\n"


def _fixed_clock() -> str:
    """Return a macro of a template's language that takes the place of the function for the day.

    The renderer lets no function of ours into a template.
    """
    filters = "".join(f" | replace('{part}', '{FIXED_DAY.strftime(part)}')" for part in _DIRECTIVES)
    body = f"{{{{- format{filters} -}}}}"
    return f"{{%- macro {_CLOCK}(format) -%}}{body}{{%- endmacro %}}{{{{ '' }}}}"  # the '' keeps a line end after it


def chat_prompt(tokenizer: Any, role: str, instruction: str) -> ChatPrompt:
    """Return the prompt that asks for a text about a CV: `role`, `instruction`, the CV, and the start of the answer.

    The role is a system message where the template takes one, so that it replaces a system line of the template's own.

    Raises:
        CheckpointError: the template cannot be rendered, or does not write each message once and as it is.
    """
    question = f"{instruction}\n\n{_MARK}"
    with_system = [{"role": "system", "content": role}, {"role": "user", "content": question}]
    without = [{"role": "user", "content": f"{role}\n{question}"}]
    reason = ""
    for messages in (with_system, without):
        try:
            text = render(tokenizer, messages, for_answer=True)
        except Exception as error:  # a template may raise anything; many refuse system messages
            reason = f"it raises {type(error).__name__}: {reason_of(error)}"
            continue
        before, _, after = text.partition(_MARK)
        if [text.count(part) for part in (role, instruction, _MARK)] == [1, 1, 1] and instruction in before:
            return ChatPrompt(before, after, messages is with_system)
        reason = "it does not write each message once and unaltered"
    raise CheckpointError(
        f"the chat template of {tokenizer.name_or_path!r} cannot be used: {reason}; give the model another "
        f"`chat_template.jinja`, or delete it, so that the prompt is plain text"
    )


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the special token that the chat template writes after an answer; None if it writes none."""
    messages = [{"role": "user", "content": "CV"}, {"role": "assistant", "content": _MARK}]
    try:
        text = render(tokenizer, messages, for_answer=False)
    except Exception:  # `chat_prompt` says what is wrong with a template that raises an error for any conversation
        return None
    _, mark, after = text.rpartition(_MARK)
    if not mark:
        return None
    special = special_ids(tokenizer)
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in special), None)


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the tokens that are no pieces of text."""
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
