"""A judge behind an OpenAI-compatible endpoint.

Only the environment names the endpoint, so that no CV leaves the machine by accident:
GIRL_JUDGE_URL (such as https://host/v1), GIRL_JUDGE_MODEL, and GIRL_JUDGE_KEY if the endpoint wants a key.
"""

from __future__ import annotations

import email.utils
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
from typing import Any

from girl_features.errors import ConfigError, JudgeEndpointError
from girl_features.lab.judge.chat import MAX_REPLY_TOKENS, Message

URL, MODEL, KEY = "GIRL_JUDGE_URL", "GIRL_JUDGE_MODEL", "GIRL_JUDGE_KEY"
MAX_REPLY_BYTES = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
RETRY_STATUS = (408, 429, 500, 502, 503, 504)


class Endpoint:
    """A chat-completions endpoint, asked at temperature 0. Temporary errors are retried after a limited wait."""

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
        """`timeout` and `max_wait` are seconds; `attempts` includes the first one.

        Raises:
            ConfigError: not an http(s) URL, or CVs would travel unencrypted to another machine.
        """
        parts = _checked_url(url)
        self.name = f"{model} at {parts.netloc}{parts.path.rstrip('/')}"
        self._url, self._model, self._key = url.rstrip("/") + "/chat/completions", model, key
        self._timeout, self._attempts, self._max_wait, self._sleep = timeout, attempts, max_wait, sleep
        self._opener = urllib.request.build_opener(_NoRedirect)  # a redirect would send the key to another host

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Endpoint | None:
        """Return the endpoint that the environment names, or None if it names none.

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
        """Return the text of the answer.

        Raises:
            JudgeEndpointError: the endpoint refuses the request, or still fails after the last attempt.
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
            except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out or incomplete
                problem, wait = type(error).__name__, None
            if attempt < self._attempts:
                self._sleep(min(self._max_wait, 2.0 ** (attempt - 1) if wait is None else wait))
        raise JudgeEndpointError(
            f"the judge's endpoint {self._url} failed {self._attempts} times, the last with {problem}; the replies so "
            f"far are kept: run the same command again later"
        )

    def _ask(self, data: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None  # urllib then raises the 3xx status as an HTTPError


def _checked_url(url: str) -> urllib.parse.SplitResult:
    """Split the URL; ConfigError if it is not http(s), holds a password, or sends CVs to another host over http."""
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
    return parts


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if it is missing or unreadable."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d+)?\s*", value):
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
