"""FeatureClient: vectors of seekers and jobs for a ranker that answers requests, always and within a deadline."""

from girl_features.lookup.answers import JobVectors, SeekerVectors
from girl_features.lookup.asynchronous import AsyncFeatureClient
from girl_features.lookup.client import FeatureClient
from girl_features.lookup.opening import open_client, open_queue, serving_encoder

__all__ = [
    "AsyncFeatureClient",
    "FeatureClient",
    "JobVectors",
    "SeekerVectors",
    "open_client",
    "open_queue",
    "serving_encoder",
]
