"""Load test of the ranking service: many connections that ask /rank again as soon as they are answered.

The callers run in a process of their own. They write and read raw HTTP: a client library would be slower than the
service and would limit the load.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from measuring import new_process


class Load(NamedTuple):
    """Answers of one load test."""

    statuses: dict[str, int]  # HTTP status or name of an error -> number of answers
    p50_ms: float  # of the answers with 200
    p99_ms: float

    @property
    def n_errors(self) -> int:
        """Number of answers other than 200 and 429."""
        return sum(count for status, count in self.statuses.items() if status not in ("200", "429"))


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Serve the app in a thread on a free port of loopback until the block ends; give the port."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
        server.should_exit = True
        thread.join()


def load_test(port: int, body: dict[str, object], n_connections: int, seconds: float) -> Load:
    """Send `body` to /rank from `n_connections` connections at once for so many seconds."""
    with new_process() as executor:
        return executor.submit(_load, port, json.dumps(body).encode(), n_connections, seconds).result()


def _load(port: int, body: bytes, n_connections: int, seconds: float) -> Load:
    if hasattr(os, "sched_setaffinity"):
        # the service keeps to one core; the callers may use the others
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    fields = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}")
    request = "\r\n".join(("POST /rank HTTP/1.1", *fields, "", "")).encode() + body
    answers = asyncio.run(_ask_over_all(port, request, n_connections, time.monotonic() + seconds))
    times = [seconds for status, seconds in answers if status == "200"]
    p50, p99 = np.percentile(times, (50, 99)) * 1000 if times else (float("nan"), float("nan"))
    return Load(dict(Counter(status for status, _ in answers)), float(p50), float(p99))


async def _ask_over_all(port: int, request: bytes, n_connections: int, until: float) -> list[tuple[str, float]]:
    by_connection = await asyncio.gather(*(_ask_repeatedly(port, request, until) for _ in range(n_connections)))
    return [answer for answers in by_connection for answer in answers]


async def _ask_repeatedly(port: int, request: bytes, until: float) -> list[tuple[str, float]]:
    """Ask over one connection until that time; return status, or name of the error, and seconds of each answer."""
    answers = []
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.monotonic() < until:
                start = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(length)
                answers.append((head[9:12].decode(), time.perf_counter() - start))
                if b"\r\nconnection: close" in head:
                    break
            writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            answers.append((type(error).__name__, 0.0))
            await asyncio.sleep(0.01)
    return answers
