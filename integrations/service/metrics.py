"""Prometheus metrics of the ranking service: latency by tier, tier mix, queues, contract. Labels hold no ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from girl_features.errors import require
from girl_features.schema import Tier

require("prometheus_client", "serve")
from prometheus_client import (  # noqa: E402
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)  # seconds


def tier_name(tier: int) -> str:
    """How JSON and metrics call a tier."""
    return Tier(tier).name.lower()


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self, contract: str, predictor: str) -> None:
        self._registry = CollectorRegistry()
        self._seconds = self._histogram("girl_request_seconds", "Answered requests by the lowest tier in them")
        self._answers = self._counter("girl_answers", "Job seekers answered", ["tier"])
        self._responses = self._counter("girl_responses", "Responses by HTTP status", ["path", "status"])
        for tier in Tier:  # so that a rate begins at 0 and not with the first answer
            self._answers.labels(tier_name(tier))
        info = Info("girl_service", "What is being served", registry=self._registry)
        info.info({"contract": contract, "predictor": predictor})

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def answered(self, path: str, tiers: np.ndarray, seconds: float) -> None:
        """Count one answer for seekers of these (n,) tiers."""
        self._seconds.labels(path, tier_name(int(tiers.max()))).observe(seconds)
        for tier, count in enumerate(np.bincount(tiers, minlength=len(Tier)).tolist()):
            self._answers.labels(tier_name(tier)).inc(count)

    def responded(self, path: str, status: int) -> None:
        """Count one response."""
        self._responses.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return bytes(generate_latest(self._registry))

    def _counter(self, name: str, description: str, labels: list[str]) -> Counter:
        return Counter(name, description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(name, description, ["path", "tier"], buckets=BUCKETS, registry=self._registry)
