"""A generator's tokenizer at both ends, the same for every engine: CVs to prompt ids, new ids to JDs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from girl_features.errors import ShapeError
from girl_features.generator.prompts import PromptIds, PromptTemplate, encode_prompt, template_for
from girl_features.schema import GeneratedText


class Request(NamedTuple):
    """One JD to draw."""

    cv: int  # its CV's place in the call
    sample: int  # its seed's place among the CV's seeds
    seed: int
    prompt: PromptIds


class Prompting:
    """Turns CVs into requests, and an engine's new token ids into texts."""

    def __init__(self, tokenizer: Any, max_cv_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._template = template_for(tokenizer)
        self._max_cv_tokens = max_cv_tokens

    @property
    def template(self) -> PromptTemplate:
        """The text around a CV."""
        return self._template

    def requests(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[Request]:
        """One request a seed, CV by CV.

        Raises:
            ShapeError: `cvs` and `seeds` differ in length.
        """
        if len(cvs) != len(seeds):
            raise ShapeError(f"{len(cvs)} CVs came with seeds for {len(seeds)}")
        prompts = [encode_prompt(self._tokenizer, self._template, cv, self._max_cv_tokens) for cv in cvs]
        return [Request(i, sample, seed, prompts[i]) for i, own in enumerate(seeds) for sample, seed in enumerate(own)]

    def text(self, new_ids: Sequence[int], prompt: PromptIds) -> GeneratedText:
        """What an engine wrote after `prompt`, up to the end token where there is one."""
        eos, ids = self._tokenizer.eos_token_id, list(new_ids)
        finished = eos in ids
        kept = ids[: ids.index(eos)] if finished else ids
        return GeneratedText(
            text=self._tokenizer.decode(kept, skip_special_tokens=True).strip(),
            finish_reason="stop" if finished else "length",
            n_prompt_tokens=len(prompt.ids),
            n_new_tokens=len(kept),
            cv_truncated=prompt.cv_truncated,
        )

    def longest_prompt(self) -> int:
        """Tokens of a prompt whose CV is cut."""
        empty = encode_prompt(self._tokenizer, self._template, "", self._max_cv_tokens)
        return len(empty.ids) + self._max_cv_tokens


def by_cv(
    seeds: Sequence[Sequence[int]], requests: Sequence[Request], texts: Sequence[GeneratedText]
) -> list[list[GeneratedText]]:
    """The texts of `requests`, whatever their order, as one list a CV in the order of its seeds."""
    found = {(r.cv, r.sample): text for r, text in zip(requests, texts, strict=True)}
    return [[found[i, sample] for sample in range(len(own))] for i, own in enumerate(seeds)]
