"""Prompts: from CVs to token ids, and from the token ids that a model writes to JDs (GIRL, section IV-A).

A template is the text before and after the CV. The three parts are tokenized separately and joined as ids, so that
the CV can be cut to an exact number of tokens and no token spans a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from girl_features.config import PromptStyle
from girl_features.contract import text_hash
from girl_features.errors import ShapeError
from girl_features.generator.chat_template import chat_prompt, end_of_turn
from girl_features.generator.thinking import without_thinking
from girl_features.schema import GeneratedText

CV_TOKEN = "<|cv|>"
JD_TOKEN = "<|jd|>"

ROLE = "You are an experienced recruiter who knows which job suits a person next."
_TASK = "Read the CV below and write the description of the job that would suit this person best now: "
_ASKS_FOR: dict[PromptStyle, str] = {
    "full": "a title line, then duties and requirements. Write the job description and nothing else.",
    "short": (
        'a title line, then a line that begins with "Duties:" and names the three main ones, then a line that begins '
        'with "Skills:" and names five. Use words of your own, and write these three lines and nothing else.'
    ),
}


class PromptTemplate(NamedTuple):
    """The fixed text around the CV."""

    name: str
    before_cv: str
    after_cv: str

    @property
    def version(self) -> str:
        """Name and eight hex digits of the text's hash: chat templates of one name differ between tokenizers."""
        text = f"{self.before_cv}\0{self.after_cv}"
        return f"{self.name}:{text_hash(text)[:8]}"


def instruction(style: PromptStyle = "full") -> str:
    """Return what a prompt of this style asks of a model."""
    return _TASK + _ASKS_FOR[style]


def _plain(name: str, style: PromptStyle) -> PromptTemplate:
    return PromptTemplate(name, f"{ROLE}\n{instruction(style)}\n\n### CV\n", "\n\n### Job description\n")


TINY = PromptTemplate("tiny-1", CV_TOKEN, JD_TOKEN)
PLAIN = _plain("plain-1", "full")
PLAIN_SHORT = _plain("plain-short-1", "short")


def template_for(tokenizer: Any, style: PromptStyle = "full") -> PromptTemplate:
    """Return the template for a tokenizer: with its markers (`tiny`), its own chat template, or plain text.

    That of `tiny` asks for nothing in words, and so has no styles.

    Raises:
        CheckpointError: its chat template cannot be used.
    """
    if JD_TOKEN in tokenizer.get_vocab():
        return TINY
    if not tokenizer.chat_template:
        return PLAIN if style == "full" else PLAIN_SHORT
    prompt = chat_prompt(tokenizer, ROLE, instruction(style))
    return PromptTemplate("chat-2" if style == "full" else "chat-short-1", prompt.before_cv, prompt.after_cv)


def style_of(version: str) -> PromptStyle:
    """Return the style of the prompt with this version, as a contract or a training record names it."""
    return "short" if "short" in version.partition(":")[0].split("-") else "full"


def end_token(tokenizer: Any) -> int:
    """Return the token that ends a JD in training: the end of turn of a chat template, else the end of a text."""
    end = end_of_turn(tokenizer) if template_for(tokenizer).name.startswith("chat") else None
    return int(tokenizer.eos_token_id if end is None else end)


class PromptIds(NamedTuple):
    """A prompt as token ids."""

    ids: list[int]
    cv_truncated: bool


class DrawRequest(NamedTuple):
    """One JD to generate."""

    cv: int  # index of the CV in the call
    sample: int  # index of the seed among the seeds of the CV
    seed: int
    prompt: PromptIds


class PromptCodec:
    """Encodes CVs as prompts, and decodes the token ids that an engine writes, in the same way for every engine."""

    def __init__(
        self, tokenizer: Any, max_cv_tokens: int, stop_ids: Sequence[int], style: PromptStyle = "full"
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)  # each of them ends a JD
        self._template = template_for(tokenizer, style)
        self.version = self._template.version
        self._max_cv_tokens = max_cv_tokens

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt whose CV is cut."""
        return len(self._encode("").ids) + self._max_cv_tokens

    def requests(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[DrawRequest]:
        """Return one request for each seed of each CV, in order.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        if len(cvs) != len(seeds):
            raise ShapeError(f"{len(cvs)} CVs came with seeds for {len(seeds)}")
        requests = []
        for i, (cv, cv_seeds) in enumerate(zip(cvs, seeds, strict=True)):
            prompt = self._encode(cv)
            requests += [DrawRequest(i, sample, seed, prompt) for sample, seed in enumerate(cv_seeds)]
        return requests

    def decode(self, new_ids: Sequence[int], prompt: PromptIds) -> GeneratedText:
        """Return the text that an engine wrote after `prompt`, up to the first end token and without thinking."""
        text_ids = until_end(new_ids, self.stop_ids)
        is_finished = len(text_ids) < len(new_ids)
        return GeneratedText(
            text=answer_text(self.tokenizer, text_ids),
            finish_reason="stop" if is_finished else "length",
            n_prompt_tokens=len(prompt.ids),
            n_new_tokens=len(text_ids),
            cv_truncated=prompt.cv_truncated,
        )

    def _encode(self, cv: str) -> PromptIds:
        return encode_prompt(self.tokenizer, self._template, cv, self._max_cv_tokens)


def group_by_cv(
    seeds: Sequence[Sequence[int]], requests: Sequence[DrawRequest], texts: Sequence[GeneratedText]
) -> list[list[GeneratedText]]:
    """Return the texts of `requests`, which may be in any order, as one list for each CV in the order of its seeds."""
    by_place = {(request.cv, request.sample): text for request, text in zip(requests, texts, strict=True)}
    return [[by_place[cv, sample] for sample in range(len(cv_seeds))] for cv, cv_seeds in enumerate(seeds)]


def encode_prompt(tokenizer: Any, template: PromptTemplate, cv: str, max_cv_tokens: int) -> PromptIds:
    """Return the token ids of the prompt for `cv`, which is cut to its first `max_cv_tokens` tokens.

    CVs are untrusted text, so special tokens that are spelled out in a CV are read as plain characters.
    """
    cv_ids = plain_text_ids(tokenizer, cv)
    before = tokenizer(template.before_cv, add_special_tokens=False)["input_ids"]
    after = tokenizer(template.after_cv, add_special_tokens=False)["input_ids"]
    return PromptIds(
        [*_start_ids(tokenizer, before), *before, *cv_ids[:max_cv_tokens], *after], len(cv_ids) > max_cv_tokens
    )


class JDIds(NamedTuple):
    """A JD and its end as token ids."""

    ids: list[int]
    truncated: bool


def encode_jd(tokenizer: Any, jd: str, max_jd_tokens: int) -> JDIds:
    """Return the token ids of a real JD as it follows a prompt, with the end token.

    A JD that is too long ends at its last whole sentence that fits.
    """
    ids = plain_text_ids(tokenizer, jd)
    truncated = len(ids) > max_jd_tokens
    if truncated:
        ids = plain_text_ids(tokenizer, cut_at_sentence(tokenizer.decode(ids[:max_jd_tokens])))
    return JDIds([*ids[:max_jd_tokens], end_token(tokenizer)], truncated)


def cut_at_sentence(text: str) -> str:
    """Return `text` up to the last sentence, `; ` or line end in its second half, or all of it if there is none."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "\n", "; "))
    return text[: end + 1].rstrip() if end > len(text) // 2 else text


def plain_text_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of `text`. Special tokens that are spelled out in it become plain characters."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def until_end(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return `ids` up to the first of the tokens that end a text, without it; all of them if there is none."""
    end = next((place for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return list(ids[:end])


def answer_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of the tokens that a model wrote, without special tokens and without thinking."""
    raw = str(tokenizer.decode(list(ids), skip_special_tokens=False))  # tags of thinking may be special tokens
    answer = without_thinking(raw)
    if answer == raw:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in special.union(tokenizer.all_special_tokens):
        answer = answer.replace(token, "")
    return answer.strip()


def _start_ids(tokenizer: Any, before: list[int]) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text, unless the template has written them."""
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    places = [place for place in range(len(whole)) if whole[place : place + len(bare)] == bare]
    start: list[int] = whole[: places[0]] if places else []
    return [] if start and start[0] in before else start
