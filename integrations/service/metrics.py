"""Prometheus metrics of the ranking service: latency by tier, share of each tier, queues, contract. No ids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from girl_features.schema import Tier

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)  # seconds


def tier_name(tier: int) -> str:
    """Return the name of a tier in JSON and metrics."""
    return Tier(tier).name.lower()


class Metrics:
    """The metrics of one app, in a registry of its own."""

    def __init__(self, contract: str, predictor: str) -> None:
        self._registry = registry = CollectorRegistry()
        description = "Answered requests by the lowest tier in them"
        self._seconds = Histogram(
            "girl_request_seconds", description, ["path", "tier"], buckets=BUCKETS, registry=registry
        )
        self._answers = Counter("girl_answers", "Job seekers answered", ["tier"], registry=registry)
        self._responses = Counter("girl_responses", "Responses by HTTP status", ["path", "status"], registry=registry)
        for tier in Tier:  # makes every series start at 0, so that rates count the first answer
            self._answers.labels(tier_name(tier))
        served = {"contract": contract, "predictor": predictor}
        Info("girl_service", "What is being served", registry=registry).info(served)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is read when Prometheus asks."""
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
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
