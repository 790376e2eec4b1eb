"""Fits of pairs of CV and JD, kept on disk under a hash of both texts: they take hours, and a run may be stopped."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.errors import InterruptedRunError
from girl_features.progress import Progress, announce
from girl_features.store.files import write_whole

PAIRS_AT_ONCE = 200
_SCHEMA = [("pair_sha256", pa.binary(32)), ("fit", pa.list_(pa.float32()))]


class PairScorer(Protocol):
    """Computes (n, k) columns of n pairs of CV and JD."""

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """Return (n, k) float32."""
        ...


class PairFits:
    """A scorer that keeps its columns in `folder`, which belongs to one model. It is opened when it is needed."""

    def __init__(
        self, open_scorer: Callable[[], PairScorer], folder: Path, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._open_scorer, self._folder, self._should_stop = open_scorer, folder, should_stop

    def of(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """Return (n, k) float32 of n pairs. New pairs are scored and kept, some CVs at a time.

        Raises:
            InterruptedRunError: `should_stop` returned True. What was scored is kept.
        """
        keys = [_key(cv, jd) for cv, jd in zip(cvs, jds, strict=True)]
        known = self._load()
        missing = {key: row for row, key in enumerate(keys) if key not in known}
        if missing:
            scorer = self._open_scorer()
            with Progress("fit of CV and JD", len(missing), "pairs") as progress:
                for rows in _by_cv(cvs, list(missing.values())):
                    if self._should_stop():
                        raise InterruptedRunError
                    fits = scorer.score([cvs[row] for row in rows], [jds[row] for row in rows])
                    new = [keys[row] for row in rows]
                    self._keep(new, fits)
                    known.update(zip(new, fits, strict=True))
                    progress.advance(len(rows))
        return np.array([known[key] for key in keys], np.float32)

    def _load(self) -> dict[bytes, np.ndarray]:
        known: dict[bytes, np.ndarray] = {}
        for path in sorted(self._folder.glob("part-*.parquet")):
            try:
                table = pq.read_table(path, page_checksum_verification=True)
            except (OSError, pa.ArrowInvalid) as error:
                if getattr(error, "errno", None):  # the file cannot be read now; it may be whole
                    raise
                announce(f"{path} is damaged: its pairs are scored again")
                continue
            fits = np.stack(table["fit"].to_numpy(zero_copy_only=False)).astype(np.float32)
            known.update(zip(table["pair_sha256"].to_pylist(), fits, strict=True))
        return known

    def _keep(self, keys: list[bytes], fits: np.ndarray) -> None:
        buffer = io.BytesIO()
        table = pa.table({"pair_sha256": keys, "fit": list(fits)}, schema=pa.schema(_SCHEMA))
        pq.write_table(table, buffer, write_page_checksum=True)
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:16]
        write_whole(self._folder / f"part-{name}.parquet", buffer.getbuffer())


def _by_cv(cvs: Sequence[str], rows: list[int]) -> Iterator[list[int]]:
    """Cut rows into groups of about PAIRS_AT_ONCE, with all rows of a CV in one, since a CV is read once a group."""
    rows_of: dict[str, list[int]] = {}
    for row in rows:
        rows_of.setdefault(cvs[row], []).append(row)
    group: list[int] = []
    for of_cv in rows_of.values():
        group += of_cv
        if len(group) >= PAIRS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _key(cv: str, jd: str) -> bytes:
    texts = (hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest() for text in (cv, jd))
    return hashlib.sha256(b"".join(texts)).digest()
