"""Vectors of texts, kept on disk under the hash of the text, so that no text is encoded twice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features.encoder import TextEncoder
from girl_features.progress import Progress
from girl_features.store.files import write_whole

CHUNK = 512
_SCHEMA = [("text_sha256", pa.binary(32)), ("vector", pa.list_(pa.float32()))]


class VectorTable(NamedTuple):
    """Vectors of m distinct texts. Worker processes receive it pickled."""

    rows: dict[str, int]  # text -> row of `vectors`
    vectors: np.ndarray  # (m, d) float32

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """Return the (n, d) float32 vectors of `texts`, which must all be in the table."""
        return np.asarray(self.vectors[[self.rows[text] for text in texts]])


def encode_once(encoder: TextEncoder, texts: Sequence[str]) -> VectorTable:
    """Encode all distinct `texts` without keeping them on disk: for texts about people."""
    distinct = list(dict.fromkeys(texts))
    return VectorTable({text: i for i, text in enumerate(distinct)}, encoder.encode(distinct).vectors)


class TextVectors:
    """An encoder that keeps its vectors in `folder`.

    A vector depends on encoder and text alone, so the hash of the text is its key.
    """

    def __init__(self, encoder: TextEncoder, folder: Path) -> None:
        self._encoder = encoder
        self._folder = folder / encoder.contract.fingerprint
        self._known: dict[bytes, np.ndarray] | None = None

    def table(self, texts: Sequence[str]) -> VectorTable:
        """Return the vectors of all distinct `texts`. New texts are encoded and kept, one chunk at a time."""
        digest_of = {text: hashlib.sha256(text.encode()).digest() for text in dict.fromkeys(texts)}
        known = self._load()
        missing = sorted((text for text, digest in digest_of.items() if digest not in known), key=len)
        with Progress("encode texts", len(missing), "texts") as progress:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                vectors = self._encoder.encode(chunk).vectors
                digests = [digest_of[text] for text in chunk]
                self._keep(digests, vectors)
                known.update(zip(digests, vectors, strict=True))
                progress.advance(len(chunk))
        all_vectors = np.array([known[digest] for digest in digest_of.values()], np.float32)
        all_vectors = all_vectors.reshape(-1, self._encoder.contract.dimension)  # keeps the shape if there are no texts
        return VectorTable({text: row for row, text in enumerate(digest_of)}, all_vectors)

    def _load(self) -> dict[bytes, np.ndarray]:
        if self._known is None:
            self._known = {}
            for path in sorted(self._folder.glob("part-*.parquet")):
                try:
                    table = pq.read_table(path, page_checksum_verification=True)
                except (OSError, pa.ArrowException):
                    path.unlink()  # the file is damaged: its texts are encoded again
                    continue
                vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
                self._known.update(zip(table["text_sha256"].to_pylist(), vectors, strict=True))
        return self._known

    def _keep(self, digests: list[bytes], vectors: np.ndarray) -> None:
        table = pa.table({"text_sha256": digests, "vector": list(vectors)}, schema=pa.schema(_SCHEMA))
        buffer = io.BytesIO()
        pq.write_table(table, buffer, write_page_checksum=True)
        name = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
        write_whole(self._folder / f"part-{name}.parquet", buffer.getbuffer())
