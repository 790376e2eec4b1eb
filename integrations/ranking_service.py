"""A ranking service over HTTP: the app that `girl serve` runs, for any ASGI server.

    app = create_app(Ranking.load(client, Path("ranker")), Limits())

The code of the app is in `service/app.py`, which is short enough to copy and change.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from girl_features.errors import ConfigError, require
from girl_features.integrations.online_ranking import Ranking
from girl_features.integrations.service.app import create_app
from girl_features.integrations.service.limits import Limits

__all__ = ["Limits", "Ranking", "create_app", "run_server"]

BACKLOG = 2048  # connections that the system holds until they are accepted
GRACE_SECONDS = 10  # for requests at work when a signal arrives


def run_server(app: Any, host: str, port: int, started: Callable[[str], object]) -> None:
    """Serve an ASGI app in one process until SIGINT or SIGTERM, which is raised again after the open requests.

    Port 0 stands for any free port. `started` is called with the URL once the port is bound.

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
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both_versions = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` takes IPv4 callers too
        # it listens from now on, so that a caller can connect as soon as it reads the URL
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both_versions)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host!r} port {port}: {error}; give another address of this machine with --host, "
            f"or another port with --port"
        ) from error
