"""Export of a sentence encoder for ranking hosts without torch, which load it as a HostEncoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from girl_features.contract import EncoderContract
from girl_features.encoder import (
    TOKENIZER,
    TextEncoder,
    find_encoder_folder,
    is_static,
    load_table,
    words_folder,
)
from girl_features.errors import CheckpointError, require
from girl_features.generator.openvino_graph import EXTRA, round_weights, trace_graph
from girl_features.lookup.host_encoder import GRAPH, HostEncoder

MIN_COSINE = 0.99  # between the vectors of each sample text from the exported and the original encoder


def export_encoder(encoder: TextEncoder, name: str, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the encoder `name` to `folder`, with int8 weights if they are accurate enough, otherwise with float32.

    The vectors of the sample `texts` are compared with those of the original `encoder`.

    Returns:
        Precision of the weights, and cosines between vectors of the exported and the original encoder.
    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: OpenVINO cannot convert the model, or even float32 weights give other vectors.
    """
    openvino = require("openvino", EXTRA)
    source = find_encoder_folder(name)
    original = encoder.encode(texts).vectors
    cosine = 0.0
    for weights in ("int8", "float32"):
        graph = _trace(source, encoder.contract)
        if weights == "int8":
            round_weights(graph)
        openvino.save_model(graph, folder / GRAPH, compress_to_fp16=weights == "float32")
        _copy_tokenizer(source, folder)
        cosines = (HostEncoder(folder, encoder.contract).encode(texts).vectors * original).sum(axis=1)
        cosine = float(cosines.min())
        if cosine >= MIN_COSINE:
            return {"weights": weights, "min_cosine": cosine, "mean_cosine": float(cosines.mean())}
    raise CheckpointError(
        f"the vectors of {source} in OpenVINO have a cosine of {cosine:.3f} to the original ones, wanted {MIN_COSINE}: "
        f"the model does more than mean or CLS pooling; install the `generate` extra on ranking hosts instead"
    )


class _PooledEncoder(torch.nn.Module):
    """A transformer with mean or CLS pooling."""

    def __init__(self, model: Any, pooling: str) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Turn (b, t) token ids and mask into (b, d) vectors."""
        hidden: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = attention_mask.unsqueeze(-1).float()
        return (hidden * mask).sum(1) / mask.sum(1)


class _WordVectors(torch.nn.Module):
    """The mean of word vectors."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(vectors)  # type: ignore[no-untyped-call]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Turn (b, t) token ids and mask into (b, d) vectors."""
        mask = attention_mask.unsqueeze(-1).float()
        vectors: torch.Tensor = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return vectors


def _trace(source: Path, contract: EncoderContract) -> Any:
    """The encoder in `source` as an OpenVINO graph from (1, t) token ids and mask to a (1, d) vector."""
    ids = torch.zeros(1, 7, dtype=torch.long)  # any length: it becomes dynamic below
    try:
        graph = trace_graph(_module(source, contract), (ids, torch.ones_like(ids)))
    except Exception as error:  # the tracer runs the code of the model, which may raise anything
        raise CheckpointError(f"OpenVINO cannot convert {source} ({type(error).__name__}: {error})") from error
    for port in graph.inputs:
        port.get_node().set_partial_shape(require("openvino", EXTRA).PartialShape([1, -1]))
    graph.validate_nodes_and_infer_types()
    return graph


def _module(source: Path, contract: EncoderContract) -> torch.nn.Module:
    if is_static(source):
        return _WordVectors(load_table(source).embedding.weight.detach()).eval()
    model = AutoModel.from_pretrained(
        str(words_folder(source)), use_safetensors=True, trust_remote_code=False, attn_implementation="eager"
    )
    return _PooledEncoder(model.float().eval(), contract.pooling)


def _copy_tokenizer(source: Path, folder: Path) -> None:
    try:
        text = (words_folder(source) / TOKENIZER).read_text(encoding="utf-8")
        settings = json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source} has no readable {TOKENIZER}, which ranking hosts need: {error}") from error
    if is_static(source):  # it reads no special tokens
        text = json.dumps({**settings, "post_processor": None}, ensure_ascii=False)
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
