"""ColdStart: stand-in vectors for seekers without a generated JD in the store, made from their CV vectors.

A bundle gives up to three kinds of stand-in, which are tiers of schema.Tier: the prediction of a small network
(STUDENT), the mean vector of CVs that are similar (NEIGHBOURS), or the mean of all generated vectors (PRIOR).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from girl_features.encoder import TextEncoder
from girl_features.errors import ContractMismatchError
from girl_features.lookup.bundle import Bundle
from girl_features.lookup.waiting import DeadlineThread
from girl_features.schema import Tier
from girl_features.vectors.similarity import mean_of_nearest

CACHE_SIZE = 10_000  # CV vectors of earlier requests; about 15 MB at 384 dimensions
BATCH_ROWS = 8  # CVs compared with all stored CVs before the time is checked again
RESERVE = 0.002  # seconds kept for the work after the encoding
_log = logging.getLogger(__name__)


class CVEncoder:
    """Encodes CVs of requests before a deadline, in a background thread, and caches the vectors."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._thread = DeadlineThread("girl-encode")
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str], hashes: Sequence[str], until: float) -> list[np.ndarray | None]:
        """Return a (d,) float32 vector for each text, or None where the `time.monotonic()` value `until` came first.

        The texts are cleaned CVs; their hashes are the keys of the cache.
        """
        missing = {key: text for key, text in zip(hashes, texts, strict=True) if self._cached(key) is None}
        for key, text in missing.items():
            if time.monotonic() >= until - RESERVE:
                break
            try:
                self._thread.run(lambda key=key, text=text: self._encode(key, text), until - RESERVE)  # type: ignore[misc]
            except TimeoutError:
                break  # the thread finishes this text and caches its vector
            except Exception:  # an encoder may raise anything, and every request gets an answer
                _log.exception("a CV of %d characters cannot be encoded", len(text))
        return [self._cached(key) for key in hashes]

    def close(self) -> None:
        """End the encoding thread."""
        self._thread.close()

    def _encode(self, key: str, text: str) -> None:
        if self._cached(key) is not None:  # another request has encoded the same CV
            return
        vector = self._encoder.encode([text]).vectors[0]
        with self._lock:
            self._cache[key] = np.asarray(vector, np.float32)
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)

    def _cached(self, key: str) -> np.ndarray | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)  # the least recently used vector is removed first
            return self._cache.get(key)


class ColdStart:
    """Makes stand-in vectors from a bundle."""

    def __init__(
        self, bundle: Bundle, tiers: frozenset[Tier], n_neighbours: int, encoder: TextEncoder | None = None
    ) -> None:
        """Prepare the stand-ins of `bundle` for these tiers and for PRIOR, which is always used.

        Raises:
            ContractMismatchError: `encoder` is not the encoder of the CV vectors in the bundle.
        """
        wanted = bundle.contract.encoder  # in any precision, which a ranking host may choose
        if encoder is not None and encoder.contract.model_copy(update={"dtype": wanted.dtype}) != wanted:
            raise ContractMismatchError(encoder.contract.fingerprint, wanted.fingerprint)
        self.prior, self.cv_mean = bundle.prior, bundle.cv_mean
        self.encoder = CVEncoder(encoder) if encoder is not None else None
        self._student = bundle.student if Tier.STUDENT in tiers else None
        self._cvs = bundle.neighbours_cv if Tier.NEIGHBOURS in tiers else None
        self._generated = bundle.neighbours_generated
        self._n_neighbours = n_neighbours

    def stand_ins(self, cv_vectors: np.ndarray, until: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (n, d) float32 vectors for seekers with these (n, d) CV vectors, and their (n,) int8 tiers."""
        n = len(cv_vectors)
        if self._student is not None:
            return self._student(cv_vectors), np.full(n, Tier.STUDENT, np.int8)
        vectors, tiers = np.repeat(self.prior[None], n, axis=0), np.full(n, Tier.PRIOR, np.int8)
        if self._cvs is not None and self._generated is not None:
            for start in range(0, n, BATCH_ROWS):
                if time.monotonic() >= until - RESERVE:
                    break
                rows = slice(start, start + BATCH_ROWS)
                vectors[rows] = mean_of_nearest(cv_vectors[rows], self._cvs, self._generated, self._n_neighbours)
                tiers[rows] = Tier.NEIGHBOURS
        return vectors, tiers

    def close(self) -> None:
        """End the encoding thread."""
        if self.encoder is not None:
            self.encoder.close()
