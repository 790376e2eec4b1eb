"""Export of a generator to OpenVINO files, made once for each set of weights and then reused.

A causal LM reads the keys and values of earlier tokens, its cache, and returns them with those of the new tokens.
openvino-genai expects a graph that keeps this cache as inner state. The export therefore traces the model with the
cache as plain inputs and outputs, names the inputs and outputs as openvino-genai does, and turns the cache into state.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from girl_features.errors import CheckpointError, require
from girl_features.generator.checkpoint import adapter_base, adapter_hash, base_folder, is_adapter, weights_hash
from girl_features.generator.openvino_graph import EXTRA, round_weights, trace_graph
from girl_features.generator.transformers_engine import load_causal_lm

Weights = Literal["int8", "float32"]
MODEL_NAME = "openvino_model"
MANIFEST = "export.json"
EXPORT_VERSION = 2  # increase it when this module exports the same weights differently
_ATTENTION = "girl_openvino"  # name of our attention function in the registry of transformers


def cached_export(name: str | Path, weights: Weights, cache: Path) -> Path:
    """Return the folder of the OpenVINO files of a generator. Export them first if `cache` has no complete export.

    `name` is a causal LM or a LoRA adapter, which is merged into its base. In the folder `cache`, each export has its
    own folder, named by a hash of everything it is made from.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: OpenVINO cannot convert this kind of model, or the export cannot be written.
    """
    folder = base_folder(name)
    target = cache / _export_name(folder, weights)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process that needs the same export waits for it here
            if not _is_complete(target):
                _replace(folder, weights, target)
    except OSError as error:
        raise CheckpointError(f"cannot write the export {target}: {error.strerror or error}") from error
    return target


def _export_name(folder: Path, weights: Weights) -> str:
    if is_adapter(folder):
        hashes = [adapter_hash(folder), weights_hash(adapter_base(folder))]
    else:
        hashes = ["", weights_hash(folder)]
    parts = [*hashes, weights, str(EXPORT_VERSION), version("openvino"), version("transformers")]
    return f"openvino-{weights}-{hashlib.sha256(':'.join(parts).encode()).hexdigest()[:16]}"


def _is_complete(folder: Path) -> bool:
    """True if every file in the manifest exists and has the hash that the manifest says."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(hashes) and all(_sha256(folder / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _replace(folder: Path, weights: Weights, target: Path) -> None:
    temporary = target.parent / f".tmp-{target.name}"
    for path in (temporary, target):  # an export that crashed, and a damaged one
        shutil.rmtree(path, ignore_errors=True)
    temporary.mkdir()
    openvino = require("openvino", EXTRA)
    model, _ = load_causal_lm(folder)
    graph = _trace(model.float().eval())
    _keep_cache_as_state(openvino, graph, model.config)
    if weights == "int8":
        round_weights(graph)
    openvino.save_model(graph, temporary / f"{MODEL_NAME}.xml", compress_to_fp16=False)
    model.config.save_pretrained(temporary)
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    temporary.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _PlainCacheLM(torch.nn.Module):
    """A causal LM that takes and returns its cache as plain tensors, so that it can be traced."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> tuple[Any, ...]:
        """Return the logits of (b, t) new token ids, and the (b, h, s + t, d) keys and values of each layer.

        The mask is (b, s + t) for s cached tokens, and `past` holds (b, h, s, d) keys and values of each layer.
        """
        cache: Any = DynamicCache()
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache
        )
        return (result.logits, *(t for layer in cache.layers for t in (layer.keys, layer.values)))


def _trace(model: Any) -> Any:
    n_past, n_new = 3, 4  # arbitrary: all lengths in the graph become dynamic
    ids = torch.zeros(2, n_new, dtype=torch.long)
    positions = torch.arange(n_past, n_past + n_new).repeat(2, 1)
    mask = torch.ones(2, n_past + n_new, dtype=torch.long)
    try:
        n_heads, size = _cache_shape(model.config)
        if n_heads != model.config.num_attention_heads:
            AttentionInterface.register(_ATTENTION, _grouped_attention)
            AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
            model.set_attn_implementation(_ATTENTION)
        past = [torch.zeros(2, n_heads, n_past, size) for _ in range(2 * model.config.num_hidden_layers)]
        return trace_graph(_PlainCacheLM(model), (ids, mask, positions, *past))
    except Exception as error:  # the tracer runs the code of the model, which may raise anything
        raise CheckpointError(
            f"OpenVINO cannot convert a {model.config.model_type!r} model ({type(error).__name__}: {error}); "
            f"set `generator.engine` to `transformers`"
        ) from error


def _cache_shape(config: Any) -> tuple[int, int]:
    """Number and size of the heads of keys and values."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, size


def _grouped_attention(
    module: Any,  # unused, part of the interface of transformers
    queries: Tensor,  # (b, h, t, d)
    keys: Tensor,  # (b, h / n, s, d)
    values: Tensor,  # (b, h / n, s, d)
    mask: Tensor | None,  # broadcasts to (b, h, t, s)
    scaling: float | None = None,  # factor of the scores
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of models with fewer heads for keys and values than for queries.

    It equals the sdpa attention of transformers, but repeats keys and values without reading their shapes.
    openvino-genai finds the attention to page by exactly this pattern.
    """
    n = queries.shape[1] // keys.shape[1]
    keys, values = (x.unsqueeze(2).expand(-1, -1, n, -1, -1).flatten(1, 2) for x in (keys, values))
    result = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    return result.transpose(1, 2), None


def _keep_cache_as_state(openvino: Any, graph: Any, config: Any) -> None:
    """Name inputs and outputs as openvino-genai does, add its input `beam_idx`, and turn the cache into state.

    `beam_idx` gives for each row of a step the row of the step before that it continues.
    """
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    n_heads, size = _cache_shape(config)
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask", "position_ids"), strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.outputs[0].get_tensor().set_names({"logits"})
    rows = ops.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    rows.output(0).get_tensor().set_names({"beam_idx"})
    states: dict[str, str] = {}  # name of the input -> name of the output that replaces it in the next step
    for i, (past, present) in enumerate(zip(graph.inputs[3:], graph.outputs[1:], strict=True)):
        part = f"{i // 2}.{('key', 'value')[i % 2]}"
        past.get_tensor().set_names({f"past_key_values.{part}"})
        present.get_tensor().set_names({f"present.{part}"})
        states[f"past_key_values.{part}"] = f"present.{part}"
        past.get_node().set_partial_shape(openvino.PartialShape([-1, n_heads, -1, size]))
        readers = past.get_target_inputs()
        gathered = ops.gather(past, rows, ops.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, states)
    _start_empty(openvino, graph, n_heads, size)


def _start_empty(openvino: Any, graph: Any, n_heads: int, size: int) -> None:
    """Initialize the state as (b, n_heads, 0, size): a cache of no tokens."""
    from openvino import opset13 as ops

    shape = ops.shape_of(graph.input("input_ids"), output_type="i64")
    batch = ops.gather(shape, ops.constant([0]), ops.constant(0))
    empty = ops.concat([batch, ops.constant(np.array([n_heads, 0, size], np.int64))], axis=0)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=openvino.Type.f32), empty)])
    graph.validate_nodes_and_infer_types()
