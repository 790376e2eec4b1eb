"""AsyncFeatureClient: FeatureClient for asyncio services."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from girl_features.lookup.client import FeatureClient, JobVectors, SeekerVectors

T = TypeVar("T")


class AsyncFeatureClient:
    """Calls a FeatureClient in threads. The time that a call waits for a thread counts against its deadline."""

    def __init__(self, client: FeatureClient, n_threads: int = 4) -> None:
        self._client = client
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="girl-lookup")

    async def job_seekers(
        self, ids: Sequence[str], cvs: Sequence[str | None] | None = None, deadline_ms: float | None = None
    ) -> SeekerVectors:
        """Look up vectors of seekers; see `FeatureClient.job_seekers`."""
        return await self._run(lambda remaining_ms: self._client.job_seekers(ids, cvs, remaining_ms), deadline_ms)

    async def jobs(self, ids: Sequence[str], deadline_ms: float | None = None) -> JobVectors:
        """Look up vectors of jobs; see `FeatureClient.jobs`."""
        return await self._run(lambda remaining_ms: self._client.jobs(ids, remaining_ms), deadline_ms)

    def close(self) -> None:
        """End the threads. The FeatureClient stays open."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[float], T], deadline_ms: float | None) -> T:
        until = time.monotonic() + (self._client.deadline_ms if deadline_ms is None else deadline_ms) / 1000

        def call_in_thread() -> T:
            return call((until - time.monotonic()) * 1000)

        return await asyncio.get_running_loop().run_in_executor(self._threads, call_in_thread)
