"""Load test of the ranking service: many connections that ask /rank again as soon as they are answered.

The callers run in a process of their own. They write and read raw HTTP: a client library would be slower than the
service and would limit the load.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np


class Load(NamedTuple):
    """Answers of one load test."""

    statuses: dict[str, int]  # HTTP status or name of an error -> number of answers
    p50_ms: float  # of the answers with 200
    p99_ms: float
    seconds: float

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
    command = [sys.executable, __file__, str(port), json.dumps(body), str(n_connections), str(seconds)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(**json.loads(finished.stdout))


async def _ask_repeatedly(
    port: int, request: bytes, until: float, statuses: dict[str, int], times: list[float]
) -> None:
    """Ask over one connection until that time; count each status and add the seconds of each 200 to `times`."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.monotonic() < until:
                start = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                )
                await reader.readexactly(length)
                status = head[9:12].decode()
                statuses[status] = statuses.get(status, 0) + 1
                if status == "200":
                    times.append(time.perf_counter() - start)
                if b"\r\nconnection: close" in head.lower():
                    break
            writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            name = type(error).__name__
            statuses[name] = statuses.get(name, 0) + 1
            await asyncio.sleep(0.01)


async def _main(port: int, body: str, n_connections: int, seconds: float) -> Load:
    data = body.encode()
    fields = ("Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(data)}")
    head = "\r\n".join(("POST /rank HTTP/1.1", *fields, "", ""))
    statuses: dict[str, int] = {}
    times: list[float] = []
    start = time.monotonic()
    asking = (
        _ask_repeatedly(port, head.encode() + data, start + seconds, statuses, times) for _ in range(n_connections)
    )
    await asyncio.gather(*asking)
    p50, p99 = np.percentile(times, (50, 99)) * 1000 if times else (float("nan"), float("nan"))
    return Load(statuses, float(p50), float(p99), time.monotonic() - start)


if __name__ == "__main__":
    _port, _body, _n, _seconds = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        # the service keeps to one core; the callers may use the others
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    print(json.dumps(asyncio.run(_main(int(_port), _body, int(_n), float(_seconds)))._asdict()))
