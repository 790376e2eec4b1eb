"""A connection to Ray, room for workers on it, and the gate through which every chunk goes."""

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

MAX_TRIES = 4  # of one chunk, whose worker died each time; and of loading the models, a worker
STOP_INTERVAL_S = 0.2


class Gate:
    """Lets chunks begin until it is closed, and knows which have; an actor that the driver owns.

    Ray starts a worker that died again, and its chunk with it, for ever; here is where that ends.
    """

    def __init__(self, n_workers: int) -> None:
        self._max_loads = MAX_TRIES * n_workers
        self._n_loads = 0  # since a chunk began
        self._n_tries: dict[int, int] = {}
        self._closed = False
        self._problem: str | None = None

    def load(self) -> bool:
        """Whether a worker is to load its models: not if too many did, and died of it."""
        self._n_loads += 1
        return self._n_loads <= self._max_loads

    def enter(self, number: int) -> int:
        """Which try at this chunk is about to begin; 0 if none may. One whose worker died may begin again."""
        self._n_loads = 0
        if self._closed and number not in self._n_tries:
            return 0
        self._n_tries[number] = self._n_tries.get(number, 0) + 1
        return self._n_tries[number]

    def close(self) -> int:
        """Let no other chunk begin; the number of those that have."""
        self._closed = True
        return len(self._n_tries)

    def tell(self, problem: str) -> None:
        """Keep the first problem that a worker met."""
        self._problem = self._problem or problem

    def problem(self) -> str | None:
        """What a worker met, if one did."""
        return self._problem


def import_ray(settings: RayConfig) -> None:
    """Ray reads these when it is imported; what the environment says already goes before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if _address(settings) is None:
        if "RAY_AUTH_MODE" not in os.environ:  # else whoever has an account here could run code as this user
            os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # all its ports on the loopback interface
    require("ray", "ray")


def _address(settings: RayConfig) -> str | None:
    return settings.address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def connected(settings: RayConfig) -> Iterator[int]:
    """A connection to Ray for the block, with the number of workers to start; one that is there already is kept."""
    ray, address = require("ray", "ray"), _address(settings)
    is_ours = not ray.is_initialized()
    with ExitStack() as stack:
        if is_ours:
            handler = signal.getsignal(signal.SIGTERM)
            where = {"address": address} if address is not None else _of_this_machine(settings, stack)
            ray.init(**where, log_to_driver=False, logging_level="warning")
            stack.callback(ray.shutdown)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray's own exits at once
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of defaults that Ray sets itself
            require("ray.data", "ray").DataContext.get_current().enable_progress_bars = False
        yield n_workers(settings, ray.cluster_resources(), can_grow=address is not None)


def _of_this_machine(settings: RayConfig, stack: ExitStack) -> dict[str, Any]:
    """A Ray of our own, whose files, CVs in spilled objects among them, nobody else may read."""
    wanted = None if settings.workers is None else math.ceil(settings.workers * settings.cpus_per_worker)
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    private = tempfile.TemporaryDirectory(prefix="girl-ray-", dir=parent, ignore_cleanup_errors=True)  # mode 700
    folder = Path(stack.enter_context(private)) / "r"  # Ray lets everybody into the folder it is given
    return {"address": "local", "num_cpus": wanted, "include_dashboard": False, "_temp_dir": str(folder)}


def n_workers(settings: RayConfig, resources: dict[str, float], *, can_grow: bool) -> int:
    """`ray.workers`, else as many as there is room for.

    Args:
        settings: `ray` of the config.
        resources: what the cluster has.
        can_grow: others may bring it more.

    Raises:
        ClusterError: there is no room.
    """
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
    """An actor of class `kind` beside the driver, with which it lives and dies."""
    ray = require("ray", "ray")
    strategies = require("ray.util.scheduling_strategies", "ray")
    node = ray.get_runtime_context().get_node_id()
    here = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here).remote(*arguments)


@contextmanager
def closing_on_stop(gate: Any, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Close the gate as soon as a stop is asked for, though the driver waits for a chunk."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(STOP_INTERVAL_S):
            if should_stop():
                gate.close.remote()
                return

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
