"""AsyncFeatureClient: the same answers for asyncio services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from girl_features.lookup.answers import JobVectors, SeekerVectors
from girl_features.lookup.client import FeatureClient

T = TypeVar("T")


class AsyncFeatureClient:
    """Asks a FeatureClient in threads; the time a call waits for its thread counts against its deadline."""

    def __init__(self, client: FeatureClient, n_threads: int = 4) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="girl-lookup")

    async def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        """As `FeatureClient.job_seekers`."""
        return await self._ask(lambda left: self._client.job_seekers(ids, cvs, left), deadline_ms)

    async def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """As `FeatureClient.jobs`."""
        return await self._ask(lambda left: self._client.jobs(ids, left), deadline_ms)

    def close(self) -> None:
        """End the threads; the client itself stays open."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, call: Callable[[float], T], deadline_ms: float | None) -> T:
        until = time.monotonic() + (self._client.deadline_ms if deadline_ms is None else deadline_ms) / 1000
        ask = lambda: call((until - time.monotonic()) * 1000)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)
