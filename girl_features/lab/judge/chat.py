"""Chats that answer the judge's questions: a causal LM on this machine, and a store of earlier replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from girl_features.generator.chat_template import render
from girl_features.generator.checkpoint import base_folder, weights_hash
from girl_features.generator.prompts import answer_text, plain_text_ids
from girl_features.store.files import write_whole

MAX_REPLY_TOKENS = 120
Message = dict[str, str]  # role, content
_QUESTION_MARK = "\x02Q\x03"  # placeholder for the question while the chat template is rendered


class Chat(Protocol):
    """Answers a conversation."""

    name: str  # model and place; part of the key of a kept reply

    def reply(self, messages: Sequence[Message]) -> str:
        """Return the text of the answer."""
        ...


class LocalChat:
    """A causal LM on this machine, decoded greedily."""

    def __init__(self, folder: str) -> None:
        """Load the model; CheckpointError if there is none in `folder`."""
        from girl_features.generator.transformers_engine import load_causal_lm

        self._model, self._tokenizer = load_causal_lm(folder)
        digest = weights_hash(base_folder(folder))  # so that new weights in the same folder are asked again
        self.name = f"local {Path(folder).name} {digest[:8]}"

    def reply(self, messages: Sequence[Message]) -> str:
        """Return the text of the answer."""
        import torch

        tokenizer: Any = self._tokenizer
        max_prompt = getattr(self._model.config, "max_position_embeddings", 1 << 30) - MAX_REPLY_TOKENS
        prompt = torch.tensor([self._ids(messages)])[:, -max_prompt:]
        with torch.inference_mode():
            output = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=MAX_REPLY_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
        return answer_text(tokenizer, output[0, prompt.shape[1] :].tolist())

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of the prompt. Only the template adds special tokens; a text cannot spell one."""
        *earlier, question = messages
        if not self._tokenizer.chat_template:
            texts = [message["content"] for message in messages]
            return plain_text_ids(self._tokenizer, "\n\n".join([*texts, "Answer: "]))
        turns = [*earlier, {**question, "content": _QUESTION_MARK}]
        rendered = render(self._tokenizer, turns, for_answer=True)
        head, _, tail = rendered.partition(_QUESTION_MARK)
        head_ids, tail_ids = (self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, tail))
        return [*head_ids, *plain_text_ids(self._tokenizer, question["content"]), *tail_ids]


class KeptReplies:
    """A Chat that keeps the replies of another one, so that each question is asked once.

    The files hold replies. Questions, which contain CVs, are kept only as hashes.
    """

    def __init__(self, chat: Chat, folder: Path) -> None:
        self._chat, self._folder = chat, folder
        self.name = chat.name
        self.n_asked = self.n_kept = 0

    def reply(self, messages: Sequence[Message]) -> str:
        """Return the text of the answer, kept or new. Errors of the inner Chat pass through."""
        key = hashlib.sha256(json.dumps([self.name, list(messages)]).encode()).hexdigest()
        path = self._folder / f"{key[:32]}.json"
        kept = _read_reply(path)
        if kept is not None:
            self.n_kept += 1
            return kept
        reply = self._chat.reply(messages)
        self.n_asked += 1
        data = json.dumps({"reply": reply, "sha256": hashlib.sha256(reply.encode()).hexdigest()})
        write_whole(path, data.encode())
        return reply


def _read_reply(path: Path) -> str | None:
    """Return the reply in a file, or None if the file is missing or damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        reply = record["reply"]
        return reply if hashlib.sha256(reply.encode()).hexdigest() == record["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
