"""The sentence encoder on a ranking host: OpenVINO and tokenizers, no torch. Written once, by a host that has torch.

encoder.xml, encoder.bin     token ids to one unit vector, int8 weights where those come near enough
tokenizer.json               of the model
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.contract import EncoderContract
from girl_features.encoder import TextEncoder, find_encoder_folder, read_characters
from girl_features.errors import CheckpointError, require
from girl_features.lookup.vector_map import unit_rows
from girl_features.schema import Encoded

GRAPH, WEIGHTS, TOKENIZER = "encoder.xml", "encoder.bin", "tokenizer.json"
FILES = (GRAPH, WEIGHTS, TOKENIZER)
MIN_COSINE = 0.99  # of each sample text's vector to the contract's own encoder
_EXTRA = "openvino"


class HostEncoder:
    """A TextEncoder of one text at a time, for the CV of a request."""

    def __init__(self, folder: Path, contract: EncoderContract, n_threads: int = 1) -> None:
        """Load the encoder that `export_encoder` wrote to `folder`.

        Args:
            folder: a bundle's; its hashes have been checked.
            contract: of the encoder it stands for.
            n_threads: of the CPU.

        Raises:
            MissingExtraError: OpenVINO or tokenizers is not installed.
            CheckpointError: no such files, or damaged ones.
        """
        openvino, tokenizers = require("openvino", _EXTRA), require("tokenizers", "serve")
        options = {"INFERENCE_NUM_THREADS": n_threads, "PERFORMANCE_HINT": "LATENCY"}
        try:
            self._model = openvino.Core().compile_model(str(folder / GRAPH), "CPU", options)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # both raise whatever their parsers do
            raise CheckpointError(f"{folder} has no readable encoder: {error}; run `girl train student`") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(contract.max_tokens)
        self._contract = contract

    @property
    def contract(self) -> EncoderContract:
        """Of the encoder it stands for."""
        return self._contract

    def encode(self, texts: Sequence[str]) -> Encoded:
        """(n, d) float32 unit vectors, and (n,) bool: which texts were longer than the encoder reads."""
        vectors = np.zeros((len(texts), self._contract.dimension), np.float32)
        truncated = np.zeros(len(texts), bool)
        for row, text in enumerate(texts):
            tokens = self._tokenizer.encode(text[: read_characters(self._contract.max_tokens)])
            ids = np.array([tokens.ids], np.int64)
            vectors[row] = self._model([ids, np.ones_like(ids)])[0][0]
            truncated[row] = bool(tokens.overflowing)
        return Encoded(unit_rows(vectors), truncated)


def export_encoder(encoder: TextEncoder, name: str, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write the encoder `name` to `folder` for ranking hosts, and say in what precision and how near it comes.

    Args:
        encoder: the contract's own, to compare with.
        name: of the model, or its folder.
        texts: to compare on.
        folder: to write FILES to.

    Raises:
        MissingExtraError: OpenVINO or torch is not installed.
        CheckpointError: not even float weights give the vectors of `encoder`: a model of another make.
    """
    from girl_features.generator.openvino_export import round_weights

    openvino = require("openvino", _EXTRA)
    source = find_encoder_folder(name)
    wanted = encoder.encode(texts).vectors
    cosine = 0.0
    for weights in ("int8", "float32"):
        graph = _traced(source, encoder.contract)
        if weights == "int8":
            round_weights(openvino, graph)
        openvino.save_model(graph, folder / GRAPH, compress_to_fp16=weights == "float32")
        _copy_tokenizer(source, folder)
        cosines = (HostEncoder(folder, encoder.contract).encode(texts).vectors * wanted).sum(axis=1)
        cosine = float(cosines.min())
        if cosine >= MIN_COSINE:
            return {"weights": weights, "min_cosine": cosine, "mean_cosine": float(cosines.mean())}
    raise CheckpointError(
        f"{source} run by OpenVINO comes no nearer to its own vectors than {cosine:.3f}, wanted {MIN_COSINE}: it does "
        f"more than mean or CLS pooling; give services the encoder itself (`generate` extra) instead"
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    try:
        text = (source / TOKENIZER).read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source} has no readable {TOKENIZER}, which ranking hosts need: {error}") from error
    (folder / TOKENIZER).write_text(text, encoding="utf-8")


def _traced(source: Path, contract: EncoderContract) -> Any:
    """Token ids and mask, (1, t) each, to the (1, d) pooled vector, as an OpenVINO graph."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    torch, transformers = require("torch", "generate"), require("transformers", "generate")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer's, on branches that these lengths do not decide
        model = transformers.AutoModel.from_pretrained(
            str(source), use_safetensors=True, trust_remote_code=False, attn_implementation="eager"
        )

        class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.model = model.float().eval()

            def forward(self, input_ids: Any, attention_mask: Any) -> Any:
                hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
                if contract.pooling == "cls":
                    return hidden[:, 0]
                mask = attention_mask.unsqueeze(-1).float()
                return (hidden * mask).sum(1) / mask.sum(1)

        ids = torch.ones(1, 7, dtype=torch.long)
        try:
            decoder = TorchScriptPythonDecoder(Pooled(), example_input=(ids, torch.ones_like(ids)))
            frontend = FrontEndManager().load_by_framework("pytorch")
            graph = frontend.convert(frontend.load(decoder))
        except Exception as error:  # the converter raises whatever the model's code does under the tracer
            raise CheckpointError(f"OpenVINO cannot convert {source} ({type(error).__name__}: {error})") from error
    for port in graph.inputs:
        port.get_node().set_partial_shape(require("openvino", _EXTRA).PartialShape([1, -1]))
    graph.validate_nodes_and_infer_types()
    return graph
