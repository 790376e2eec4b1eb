"""What keeps a service from waiting without end: bodies of a bounded size, few requests at work, few waiting.

A request that cannot be answered within its deadline is refused with 429 and Retry-After, at once where that is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

RETRY_AFTER_SECONDS = 1
BODY_SECONDS = 5.0  # a request's body has to be here by then
ARRIVED = "girl_arrived"  # in the ASGI scope: the `time.monotonic()` at which the whole request was here


class Limits(NamedTuple):
    """How much one process takes on."""

    n_threads: int = 4  # requests at work; a ranker computes, so more than a few threads gain nothing
    n_waiting: int = 16  # requests that wait for a thread; any more are refused
    deadline_ms: float = 250.0  # for all of a request, once its body is here
    max_body_bytes: int = 1 << 20


class BusyError(Exception):
    """The request cannot be answered within its deadline."""


class Admission:
    """Runs calls in a few threads; a call waits for its turn, and for its end, no longer than it may."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.n_threads, thread_name_prefix="girl-rank")
        self._free = asyncio.Semaphore(limits.n_threads)
        self.n_waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may."""
        return self._free.locked() and self.n_waiting >= self._limits.n_waiting

    async def run(self, call: Callable[[float], T], arrived: float) -> T:
        """What `call` returns.

        Args:
            call: given the `time.monotonic()` to be done by.
            arrived: when the deadline began to count, likewise.

        Raises:
            BusyError: too many wait already, or there was no result in time; a call once begun goes on unheard.
        """
        until = arrived + self._limits.deadline_ms / 1000
        if self.is_full:
            raise BusyError
        self.n_waiting += 1
        try:
            await _before(until, self._free.acquire())
        finally:
            self.n_waiting -= 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, call, until)
        future.add_done_callback(self._ended)
        return await _before(until, asyncio.shield(future))

    def close(self) -> None:
        """Let calls that are at work end, begin no other."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._free.release()
        if not future.cancelled():
            future.exception()  # seen, also where nobody waits any more


async def _before(until: float, awaited: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(awaited, max(0.0, until - time.monotonic()))
    except TimeoutError as error:
        raise BusyError from error


class Gate:
    """ASGI middleware, first of all: bounded bodies, refusals that cost next to nothing, a count of responses."""

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        is_full: Callable[[], bool],
        responded: Callable[[str, int], object],
        seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds
        self._is_full, self._responded = is_full, responded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body and the time it was here; or answer 408, 413 or 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        is_counted = False

        async def counted(message: Message) -> None:
            nonlocal is_counted
            if message["type"] == "http.response.start":
                is_counted = True
                self._responded(_route(scope), message["status"])
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        refusal: Response | None
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except TimeoutError:
            refusal = _refusal(408, f"the request's body did not arrive within {self._seconds:g} s")
        else:
            if body is None:
                return  # the client has gone
            refusal = self._refusal(scope, body)
        if refusal is not None:
            await refusal(scope, receive, counted)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        scope[ARRIVED] = time.monotonic()
        try:
            await self._app(scope, replay, counted)
        except Exception:
            if not is_counted:
                self._responded(_route(scope), 500)  # sent by what stands around all middleware
            raise

    def _refusal(self, scope: Scope, body: bytes) -> Response | None:
        if len(body) > self._max_bytes:
            return _refusal(413, f"the request's body is larger than {self._max_bytes} bytes")
        return busy_response() if scope["method"] == "POST" and self._is_full() else None

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; one that is too large is read no further than shows that it is."""
        body = bytearray()
        while len(body) <= self._max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


def _route(scope: Scope) -> str:
    """The path as the app knows it; never as it was sent, which could be anything."""
    route = scope.get("route")
    return str(route.path) if route is not None else "other"


def busy_response() -> Response:
    """429, with when to try again."""
    return _refusal(
        429,
        f"too many requests to answer this one in time; try again in {RETRY_AFTER_SECONDS} s",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers=headers)
