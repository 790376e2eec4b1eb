"""Look-up of vectors of job seekers and jobs, with a deadline, for a ranker that answers requests.

To follow one request from an id to its vector, read in this order: `opening.py` and `client.py` here, `stored.py`,
then `packed_store.py` in `store/online/`, the backend `store/online_sqlite.py` or `store/online_redis.py`, and
`packed.py` and `response.py`, which turn stored bytes into arrays.
"""

from girl_features.lookup.client import AsyncFeatureClient, FeatureClient, JobVectors, SeekerVectors
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
