"""Prompt templates and their versions: role + instruction + CV + a blank for the JD (GIRL, section IV-A).

A template is only the text before and after the CV. The three pieces are tokenized apart and joined as
ids, so that the CV can be cut to an exact length and no token straddles a boundary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from girl_features.contract import text_hash

CV_TOKEN = "<|cv|>"
JD_TOKEN = "<|jd|>"

ROLE = "You are an experienced recruiter who knows which job suits a person next."
INSTRUCTION = (
    "Read the CV below and write the description of the job that would suit this person best now: "
    "a title line, then duties and requirements. Write the job description and nothing else."
)
_CV_MARK = "\x02CV\x03"  # stands for the CV while a chat template is rendered; never reaches a tokenizer


class PromptTemplate(NamedTuple):
    """The fixed text around the CV."""

    name: str
    before_cv: str
    after_cv: str

    @property
    def version(self) -> str:
        """Name and eight hex digits of the text: a chat template is the tokenizer's, and may differ under one name."""
        return f"{self.name}:{text_hash(self.before_cv + chr(0) + self.after_cv)[:8]}"


TINY = PromptTemplate("tiny-1", CV_TOKEN, JD_TOKEN)
PLAIN = PromptTemplate("plain-1", f"{ROLE}\n{INSTRUCTION}\n\n### CV\n", "\n\n### Job description\n")


def template_for(tokenizer: Any) -> PromptTemplate:
    """The template a tokenizer calls for: its markers (`tiny`), its chat template, or plain text."""
    if JD_TOKEN in tokenizer.get_vocab():
        return TINY
    if not tokenizer.chat_template:
        return PLAIN
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{ROLE}\n{INSTRUCTION}\n\n{_CV_MARK}"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    before, _, after = rendered.partition(_CV_MARK)
    return PromptTemplate("chat-1", before, after)


class PromptIds(NamedTuple):
    """A prompt as token ids."""

    ids: list[int]
    cv_truncated: bool


def encode_prompt(tokenizer: Any, template: PromptTemplate, cv: str, max_cv_tokens: int) -> PromptIds:
    """Token ids of the prompt for `cv`, which keeps its first `max_cv_tokens` tokens.

    The CV is text from a stranger: special tokens spelled out in it are read as plain characters.
    """
    cv_ids = plain_text_ids(tokenizer, cv)
    before = tokenizer(template.before_cv, add_special_tokens=False)["input_ids"]
    after = tokenizer(template.after_cv, add_special_tokens=False)["input_ids"]
    start = [tokenizer.bos_token_id] if _needs_bos(tokenizer, before) else []
    return PromptIds([*start, *before, *cv_ids[:max_cv_tokens], *after], len(cv_ids) > max_cv_tokens)


def plain_text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` with no special token among them, whatever the text spells."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def _needs_bos(tokenizer: Any, before: list[int]) -> bool:
    if tokenizer.bos_token_id is None or (before and before[0] == tokenizer.bos_token_id):
        return False
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
