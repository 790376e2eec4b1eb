"""ColdStart: a vector for seekers the store has none for, from their CV's vector, while there is time."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from girl_features.contract import EncoderContract
from girl_features.encoder import TextEncoder
from girl_features.errors import ContractMismatchError
from girl_features.lookup.bounded import OneThread
from girl_features.lookup.bundle import Bundle
from girl_features.lookup.vector_map import unit_rows
from girl_features.schema import Tier

N_REMEMBERED = 10_000  # CV vectors of requests; some 15 MB at 384 dimensions
ROWS_AT_ONCE = 8  # compared with all stored CVs between two looks at the clock
RESERVE = 0.002  # seconds kept for what follows the encoding
_log = logging.getLogger(__name__)


class CVEncoder:
    """CV texts to vectors within a time, one text after the other in a thread; what was encoded is remembered."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._thread = OneThread("girl-encode")
        self._remembered: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def vectors(self, texts: Sequence[str], hashes: Sequence[str], until: float) -> list[np.ndarray | None]:
        """A (d,) float32 vector for each text, None for those there was no time for."""
        missing = {key: text for key, text in zip(hashes, texts, strict=True) if self._recall(key) is None}
        for key, text in missing.items():
            if time.monotonic() >= until - RESERVE:
                break
            try:
                self._thread.run(lambda key=key, text=text: self._encode(key, text), until - RESERVE)  # type: ignore[misc]
            except TimeoutError:
                break  # the thread ends this text and remembers it
            except Exception:  # whatever an engine raises, a request is answered
                _log.exception("a CV of %d characters cannot be encoded", len(text))
        return [self._recall(key) for key in hashes]

    def close(self) -> None:
        """End the encoding thread."""
        self._thread.close()

    def _encode(self, key: str, text: str) -> None:
        if self._recall(key) is not None:  # another request was faster
            return
        vector = self._encoder.encode([text]).vectors[0]
        with self._lock:
            self._remembered[key] = np.asarray(vector, np.float32)
            while len(self._remembered) > N_REMEMBERED:
                self._remembered.popitem(last=False)

    def _recall(self, key: str) -> np.ndarray | None:
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
            return self._remembered.get(key)


class ColdStart:
    """The tiers below the store's, out of a bundle."""

    def __init__(
        self, bundle: Bundle, tiers: frozenset[Tier], n_neighbours: int, encoder: TextEncoder | None = None
    ) -> None:
        """Take the stand-ins of `bundle`.

        Raises:
            ContractMismatchError: `encoder` is not the one that the bundle's CV vectors were made by.
        """
        if encoder is not None and not _same_model(encoder.contract, bundle.contract.encoder):
            raise ContractMismatchError(encoder.contract.fingerprint, bundle.contract.encoder.fingerprint)
        self.prior, self.cv_mean = bundle.prior, bundle.cv_mean
        self.encoder = CVEncoder(encoder) if encoder is not None else None
        self._student = bundle.student if Tier.STUDENT in tiers else None
        self._cvs = bundle.neighbours_cv if Tier.NEIGHBOURS in tiers else None
        self._generated = bundle.neighbours_generated
        self._n_neighbours = n_neighbours

    def stand_ins(self, cv_vectors: np.ndarray, until: float) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float32 vectors for seekers with these (n, d) CV vectors, and the (n,) int8 tiers they are of."""
        n = len(cv_vectors)
        if self._student is not None:
            return self._student(cv_vectors), np.full(n, Tier.STUDENT, np.int8)
        vectors, tiers = np.repeat(self.prior[None], n, axis=0), np.full(n, Tier.PRIOR, np.int8)
        if self._cvs is not None and self._generated is not None:
            for start in range(0, n, ROWS_AT_ONCE):
                if time.monotonic() >= until - RESERVE:
                    break
                rows = slice(start, start + ROWS_AT_ONCE)
                vectors[rows] = neighbours_mean(cv_vectors[rows], self._cvs, self._generated, self._n_neighbours)
                tiers[rows] = Tier.NEIGHBOURS
        return vectors, tiers

    def close(self) -> None:
        """End the encoding thread."""
        if self.encoder is not None:
            self.encoder.close()


def _same_model(a: EncoderContract, b: EncoderContract) -> bool:
    """Whether two encoders have the same weights and rules; a ranking host may compute in another precision."""
    return a.model_copy(update={"dtype": b.dtype}) == b


def neighbours_mean(cv_vectors: np.ndarray, stored_cvs: np.ndarray, generated: np.ndarray, k: int) -> np.ndarray:
    """(n, d) means of the generated vectors of the k stored CVs of the highest cosine.

    Args:
        cv_vectors: (n, d) float32.
        stored_cvs: (m, d) float32 unit vectors.
        generated: (m, d) float32.
        k: at most m count.
    """
    k = min(k, len(stored_cvs))
    cosines = unit_rows(cv_vectors) @ stored_cvs.T  # (n, m)
    nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]  # (n, k)
    return np.asarray(generated[nearest].mean(axis=1), np.float32)
