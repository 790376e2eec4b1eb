"""Sentence encoder for a ranking host without torch. It needs OpenVINO and tokenizers; encoder_export.py writes it.

encoder.xml, encoder.bin     token ids to one unit vector; int8 weights if they are accurate enough
tokenizer.json               tokenizer of the model
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from girl_features.contract import EncoderContract
from girl_features.encoder import TOKENIZER, read_characters, with_direction
from girl_features.errors import CheckpointError, require
from girl_features.schema import Encoded
from girl_features.vectors.similarity import unit_rows

GRAPH = "encoder.xml"


class HostEncoder:
    """A TextEncoder that encodes one text at a time, for CVs in requests."""

    def __init__(self, folder: Path, contract: EncoderContract) -> None:
        """Load the encoder of this contract that `export_encoder` wrote to `folder`, a bundle with checked hashes.

        Raises:
            MissingExtraError: OpenVINO or tokenizers is not installed.
            CheckpointError: the files are missing or damaged.
        """
        openvino, tokenizers = require("openvino", "openvino"), require("tokenizers", "serve")
        options = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        try:
            self._model = openvino.Core().compile_model(str(folder / GRAPH), "CPU", options)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # both libraries raise many types for files that they cannot read
            raise CheckpointError(f"{folder} has no readable encoder: {error}; run `girl train student`") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(contract.max_tokens)
        self.contract = contract

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode texts as (n, d) float32 unit vectors, with (n,) bool for texts longer than the encoder reads."""
        vectors = np.zeros((len(texts), self.contract.dimension), np.float32)
        truncated = np.zeros(len(texts), bool)
        for row, text in enumerate(texts):
            tokens = self._tokenizer.encode(text[: read_characters(self.contract.max_tokens)])
            ids = np.array([tokens.ids], np.int64)
            if ids.size:  # a static encoder knows no token of some texts
                vectors[row] = self._model([ids, np.ones_like(ids)])[0][0]
            truncated[row] = bool(tokens.overflowing)
        return Encoded(with_direction(unit_rows(vectors)), truncated)
