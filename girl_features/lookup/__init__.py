"""Look-up of vectors of job seekers and jobs, with a deadline, for a ranker that answers requests."""

from girl_features.lookup.async_client import AsyncFeatureClient
from girl_features.lookup.client import FeatureClient, JobVectors, SeekerVectors
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
