"""FeatureClient: vectors of seekers and jobs for a ranker that answers requests, always and within a deadline."""

from girl_features.lookup.answers import JobVectors, SeekerVectors
from girl_features.lookup.asynchronous import AsyncFeatureClient
from girl_features.lookup.client import FeatureClient

__all__ = ["AsyncFeatureClient", "FeatureClient", "JobVectors", "SeekerVectors"]
