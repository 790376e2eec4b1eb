"""Who answers the judge's questions: an OpenAI-compatible endpoint, or a causal LM on this machine; both remembered.

The endpoint comes from the environment alone, so that no CV leaves the machine unless it was set on purpose:
GIRL_JUDGE_URL (as https://host/v1), GIRL_JUDGE_MODEL, and GIRL_JUDGE_KEY where one is wanted.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from girl_features.errors import ConfigError, JudgeEndpointError
from girl_features.generator.prompts import plain_text_ids
from girl_features.store.files import write_whole

URL, MODEL, KEY = "GIRL_JUDGE_URL", "GIRL_JUDGE_MODEL", "GIRL_JUDGE_KEY"
MAX_REPLY_BYTES = 1 << 20
MAX_REPLY_TOKENS = 120
LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
Message = dict[str, str]  # role, content
_QUESTION_MARK = "\x02Q\x03"  # stands for the question while a chat template is rendered


class Chat(Protocol):
    """Answers a conversation."""

    name: str  # of model and place: part of what a kept reply is kept under

    def reply(self, messages: Sequence[Message]) -> str:
        """The answer's text."""
        ...


class Endpoint:
    """A chat-completions endpoint, at temperature 0. Errors that pass are waited out, with a cap."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 6,
        max_wait: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`timeout` and `max_wait` are seconds; `attempts` counts the first one.

        Raises:
            ConfigError: not an http(s) URL, or CVs would travel unencrypted to another machine.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.username or parts.password:
            raise ConfigError(f"{URL} holds a user name or password; put the key in {KEY}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{URL} should be like https://host/v1, found {url!r}")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"{URL} is {url!r}: CVs and keys go to another machine over https only; use https, or a tunnel that "
                f"ends on this machine (http://127.0.0.1:PORT/v1)"
            )
        self.name = f"{model} at {parts.netloc}{parts.path.rstrip(chr(47))}"
        self._url, self._model, self._key = url.rstrip("/") + "/chat/completions", model, key
        self._timeout, self._attempts, self._max_wait, self._sleep = timeout, attempts, max_wait, sleep
        self._opener = urllib.request.build_opener(_NoRedirect)  # a redirect would take the key along

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Endpoint | None:
        """The endpoint that is set; None where none is.

        Raises:
            ConfigError: a URL without a model, or a bad URL.
        """
        url = environment.get(URL, "").strip()
        if not url:
            return None
        model = environment.get(MODEL, "").strip()
        if not model:
            raise ConfigError(f"{URL} is set, but {MODEL} is not; set it to the name of the model to ask")
        return cls(url, model, environment.get(KEY) or None)

    def reply(self, messages: Sequence[Message]) -> str:
        """The answer's text.

        Raises:
            JudgeEndpointError: refused for good, or still failing after so many attempts.
        """
        body = {"model": self._model, "messages": list(messages), "temperature": 0, "max_tokens": MAX_REPLY_TOKENS}
        data = json.dumps(body).encode()
        for attempt in range(1, self._attempts + 1):
            try:
                return self._ask(data)
            except urllib.error.HTTPError as error:
                problem, wait = f"HTTP {error.code}", _retry_after(error.headers.get("Retry-After"))
                error.close()
                if error.code not in RETRY_STATUS:
                    raise JudgeEndpointError(
                        f"the judge's endpoint {self._url} answered {problem}; check {URL}, {MODEL} and {KEY}"
                    ) from None
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, cut short
                problem, wait = type(error).__name__, None
            if attempt < self._attempts:
                self._sleep(min(self._max_wait, wait if wait is not None else 2.0 ** (attempt - 1)))
        raise JudgeEndpointError(
            f"the judge's endpoint {self._url} failed {self._attempts} times, the last with {problem}; replies so far "
            f"are kept: run the same command again later"
        )

    def _ask(self, data: bytes) -> str:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url, data=data, headers=headers, method="POST")
        with self._opener.open(request, timeout=self._timeout) as response:
            raw = response.read(MAX_REPLY_BYTES + 1)
        if len(raw) > MAX_REPLY_BYTES:
            raise JudgeEndpointError(f"{self._url} sent more than {MAX_REPLY_BYTES} bytes for a short answer")
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise JudgeEndpointError(
                f"{self._url} did not answer as a chat-completions endpoint; check {URL}"
            ) from None
        return content if isinstance(content, str) else ""


class LocalChat:
    """A causal LM on this machine, greedy."""

    def __init__(self, folder: str) -> None:
        """Raises CheckpointError where there is no such model."""
        from girl_features.generator.transformers_engine import load_causal_lm

        self._model, self._tokenizer = load_causal_lm(folder)
        self.name = f"local {Path(folder).name}"

    def reply(self, messages: Sequence[Message]) -> str:
        """The answer's text."""
        import torch

        tokenizer: Any = self._tokenizer
        ids = torch.tensor([self._ids(messages)])
        limit = getattr(self._model.config, "max_position_embeddings", 1 << 30) - MAX_REPLY_TOKENS
        with torch.inference_mode():
            output = self._model.generate(
                ids[:, -limit:],
                attention_mask=torch.ones_like(ids[:, -limit:]),
                do_sample=False,
                max_new_tokens=MAX_REPLY_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )
        return str(tokenizer.decode(output[0, min(ids.shape[1], limit) :], skip_special_tokens=True))

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids; special tokens are those of the template alone, whatever a CV or JD spells."""
        *before, last = messages
        if not self._tokenizer.chat_template:
            texts = [message["content"] for message in messages]
            return plain_text_ids(self._tokenizer, "\n\n".join([*texts, "Answer: "]))
        turns = [*before, {**last, "content": _QUESTION_MARK}]
        rendered = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        head, _, tail = rendered.partition(_QUESTION_MARK)
        first, second = (self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, tail))
        return [*first, *plain_text_ids(self._tokenizer, last["content"]), *second]


class KeptReplies:
    """A Chat that asks another one only what it was not asked before. Files hold replies; questions only as hashes."""

    def __init__(self, chat: Chat, folder: Path) -> None:
        self._chat, self._folder = chat, folder
        self.name = chat.name
        self.n_asked = self.n_kept = 0

    def reply(self, messages: Sequence[Message]) -> str:
        """The answer's text, kept or new. Errors as the inner Chat."""
        key = hashlib.sha256(json.dumps([self.name, list(messages)]).encode()).hexdigest()
        path = self._folder / f"{key[:32]}.json"
        kept = _read(path)
        if kept is not None:
            self.n_kept += 1
            return kept
        reply = self._chat.reply(messages)
        self.n_asked += 1
        data = json.dumps({"reply": reply, "sha256": hashlib.sha256(reply.encode()).hexdigest()})
        write_whole(path, data.encode())
        return reply


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # urllib then raises the 3xx as an HTTPError


def _read(path: Path) -> str | None:
    """The reply in a file; None where it is absent or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        reply = found["reply"]
        return reply if hashlib.sha256(reply.encode()).hexdigest() == found["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date; None where it says nothing usable."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
