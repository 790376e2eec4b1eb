"""Serve an ASGI app over HTTP in one process until a signal; requests at work are answered first."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from girl_features.errors import ConfigError, require

BACKLOG = 2048  # connections that the system holds until they are accepted
GRACE_SECONDS = 10  # for requests at work when a signal arrives


def run_server(app: Any, host: str, port: int, started: Callable[[str], object]) -> None:
    """Serve `app` until SIGINT or SIGTERM, which is raised again at the end.

    Args:
        app: an ASGI app.
        host: an address or name of this machine.
        port: 0 for any free port.
        started: called with the URL once the port is bound.

    Raises:
        ConfigError: the address cannot be bound.
    """
    uvicorn = require("uvicorn", "serve")
    with _listening_socket(host, port) as listening:
        bound_host, bound_port = listening.getsockname()[:2]
        url_host = f"[{bound_host}]" if ":" in bound_host else bound_host
        started(f"http://{url_host}:{bound_port}")
        config = uvicorn.Config(
            app,
            backlog=BACKLOG,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ws="none",
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listening_socket(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{host!r} is no address of this machine: {error}; give another with --host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # now, so that a caller can connect as soon as it reads the URL
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error}; give another with --port") from error
    return listening
