"""Limits of the service: size of bodies, requests at work, requests that wait.

A request that cannot be answered within its deadline gets 429 with Retry-After, immediately if the service is full.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

RETRY_AFTER_SECONDS = 1
BODY_SECONDS = 5.0  # time for a request's body to arrive
ARRIVED = "girl_arrived"  # key in the ASGI scope: the `time.monotonic()` at which the whole request had arrived


class Limits(NamedTuple):
    """Load that one process accepts."""

    n_threads: int = 4  # requests at work; a ranker computes, so more than a few threads gain nothing
    n_waiting: int = 16  # requests that wait for a thread; further ones are refused
    deadline_ms: float = 250.0  # for the whole request, from the arrival of its body
    max_body_bytes: int = 1 << 20


class BusyError(Exception):
    """The request cannot be answered within its deadline."""


class Admission:
    """Runs calls in a few threads, each within a deadline."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(limits.n_threads, thread_name_prefix="girl-rank")
        self._free = asyncio.Semaphore(limits.n_threads)
        self.n_waiting = 0

    @property
    def is_full(self) -> bool:
        """True if no thread is free and no further call may wait."""
        return self._free.locked() and self.n_waiting >= self._limits.n_waiting

    async def run(self, call: Callable[[float], T], arrived: float) -> T:
        """Run `call` in a thread, with its deadline, and return its result. Both times are of `time.monotonic()`.

        Raises:
            BusyError: too many calls wait already, or the deadline has passed. A call that has begun runs to its end,
                and its result is dropped.
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
        """Wait for running calls and start no others."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._free.release()
        if not future.cancelled():
            future.exception()  # asyncio logs exceptions that nobody reads; after a deadline nobody does


async def _before(until: float, awaited: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(awaited, max(0.0, until - time.monotonic()))
    except TimeoutError as error:
        raise BusyError from error


@dataclass
class RequestGuard:
    """ASGI middleware around all others: limits bodies, refuses at low cost when full, and counts responses."""

    app: ASGIApp
    max_bytes: int
    is_full: Callable[[], bool]
    responded: Callable[[str, int], object]  # called with path and status
    seconds: float = BODY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body and its time of arrival, or answer 408, 413 or 429."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        is_counted = False

        async def counting_send(message: Message) -> None:
            nonlocal is_counted
            if message["type"] == "http.response.start":
                is_counted = True
                self.responded(_route(scope), message["status"])
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            body = await asyncio.wait_for(self._read(receive), self.seconds)
        except TimeoutError:
            refusal = _refusal(408, f"the request's body did not arrive within {self.seconds:g} s")
            await refusal(scope, receive, counting_send)
            return
        if body is None:
            return  # the client has disconnected
        if refused := self._refusal_of(scope, body):
            await refused(scope, receive, counting_send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return messages.pop() if messages else await receive()

        scope[ARRIVED] = time.monotonic()
        try:
            await self.app(scope, receive_again, counting_send)
        except Exception:
            if not is_counted:
                self.responded(_route(scope), 500)  # the server sends this response outside all middleware
            raise

    def _refusal_of(self, scope: Scope, body: bytes) -> Response | None:
        if len(body) > self.max_bytes:
            return _refusal(413, f"the request's body is larger than {self.max_bytes} bytes")
        return busy_response() if scope["method"] == "POST" and self.is_full() else None

    async def _read(self, receive: Receive) -> bytes | None:
        """Read the body, or slightly more than `max_bytes` of it if it is too large; None after a disconnect."""
        body = bytearray()
        while len(body) <= self.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


def _route(scope: Scope) -> str:
    """Return the path as the app defines it. The path in the request could be any text, so it is never used."""
    route = scope.get("route")
    return str(route.path) if route is not None else "other"


def busy_response() -> Response:
    """Return 429 with the time after which to try again."""
    return _refusal(
        429,
        f"too many requests to answer this one in time; try again in {RETRY_AFTER_SECONDS} s",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": detail}, status, headers=headers)
