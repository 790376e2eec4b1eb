"""Connect to Ray, count the workers it has room for, and keep the gate that lets chunks begin."""

from __future__ import annotations

import math
import os
import secrets
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from girl_features.config import RayConfig
from girl_features.errors import ClusterError, require

MAX_TRIES = 4  # of one chunk whose worker dies each time, and of loading the models, for each worker
STOP_INTERVAL_S = 0.2


class ChunkGate:
    """An actor of the driver that lets chunks begin until it is closed, and counts their tries.

    Ray restarts a worker that died, and its chunk with it, without a limit. The gate sets the limit.
    """

    def __init__(self, n_workers: int) -> None:
        self._max_loads = MAX_TRIES * n_workers
        self._n_loads = 0  # since a chunk began
        self._n_tries: dict[int, int] = {}
        self._closed = False
        self._problem: str | None = None

    def load(self) -> bool:
        """True if a worker may load its models: not after too many workers died while they loaded them."""
        self._n_loads += 1
        return self._n_loads <= self._max_loads

    def enter(self, number: int) -> int:
        """Return the number of this try at a chunk, from 1; 0 after a stop, if the chunk has not begun before."""
        self._n_loads = 0
        if self._closed and number not in self._n_tries:
            return 0
        self._n_tries[number] = self._n_tries.get(number, 0) + 1
        return self._n_tries[number]

    def close(self) -> int:
        """Let no other chunk begin. Return the number of chunks that have begun."""
        self._closed = True
        return len(self._n_tries)

    def tell(self, problem: str) -> None:
        """Keep the first problem that a worker reports."""
        self._problem = self._problem or problem

    def problem(self) -> str | None:
        """Return the first problem that a worker reported, if one did."""
        return self._problem


def import_ray(settings: RayConfig) -> None:
    """Import Ray with the settings that it reads from the environment. Variables that are set already are kept."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if _address(settings) is None:
        if "RAY_AUTH_MODE" not in os.environ:  # without a token, other accounts here could run code as this user
            os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps its ports on the loopback interface
    require("ray", "ray")


def _address(settings: RayConfig) -> str | None:
    return settings.address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(settings: RayConfig) -> Iterator[int]:
    """Connect to Ray for the block, unless this process is connected already. Yield the number of workers to start."""
    ray, address = require("ray", "ray"), _address(settings)
    with ExitStack() as stack:
        if not ray.is_initialized():
            handler = signal.getsignal(signal.SIGTERM)
            options = {"address": address} if address is not None else _local_options(settings, stack)
            ray.init(**options, log_to_driver=False, logging_level="warning")
            stack.callback(ray.shutdown)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray sets a handler that exits at once
        # Ray warns about defaults that it sets itself
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            require("ray.data", "ray").DataContext.get_current().enable_progress_bars = False
        yield n_workers(settings, ray.cluster_resources(), can_grow=address is not None)


def _local_options(settings: RayConfig, stack: ExitStack) -> dict[str, Any]:
    """Options for a Ray on this machine. Nobody else may read its files, as spilled objects contain CVs."""
    n_cpus = None if settings.workers is None else math.ceil(settings.workers * settings.cpus_per_worker)
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    private = tempfile.TemporaryDirectory(prefix="girl-ray-", dir=parent, ignore_cleanup_errors=True)  # mode 700
    folder = Path(stack.enter_context(private)) / "r"  # Ray opens the folder it is given to everybody
    return {"address": "local", "num_cpus": n_cpus, "include_dashboard": False, "_temp_dir": str(folder)}


def n_workers(settings: RayConfig, resources: dict[str, float], *, can_grow: bool) -> int:
    """Return `ray.workers`, or as many workers as `resources` have room for. Raise ClusterError if there is no room."""
    n_cpus, n_gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    room = int(n_cpus // settings.cpus_per_worker)
    if settings.gpus_per_worker:
        room = min(room, int(n_gpus // settings.gpus_per_worker))
    n_workers = settings.workers or room
    if not n_workers or (n_workers > room and not can_grow):
        raise ClusterError(
            f"{settings.workers or 1} workers of {settings.cpus_per_worker:g} CPUs and {settings.gpus_per_worker:g} "
            f"GPUs each find no room: Ray has {n_cpus:g} CPUs and {n_gpus:g} GPUs; set `ray.workers`, "
            f"`ray.cpus_per_worker` or `ray.gpus_per_worker` lower"
        )
    return n_workers


def on_this_node(kind: type, *arguments: Any) -> Any:
    """Start an actor of class `kind` on the driver's node, so that it ends with the driver."""
    ray = require("ray", "ray")
    strategies = require("ray.util.scheduling_strategies", "ray")
    node = ray.get_runtime_context().get_node_id()
    same_node = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=same_node).remote(*arguments)


@contextmanager
def closing_on_stop(gate: Any, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Close the gate as soon as a stop is asked for, even while the driver waits for a chunk."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(STOP_INTERVAL_S):
            if should_stop():
                gate.close.remote()
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
