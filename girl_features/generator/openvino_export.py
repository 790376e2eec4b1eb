"""A causal LM as OpenVINO files, made once for each set of weights and kept.

The graph is traced by OpenVINO's own converter. It takes the keys and values so far as inputs and gives them back as
outputs; here the pairs become the model's inner state, as openvino-genai wants it (it then pages that state itself).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
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
from girl_features.generator.transformers_engine import load_causal_lm

Weights = Literal["int8", "float32"]
MODEL_NAME = "openvino_model"
MANIFEST = "export.json"
EXPORT_VERSION = 2  # raised when this file writes other models from the same weights
_EXTRA = "openvino"
_ATTENTION = "girl_openvino"  # its name in transformers' registry


def exported(name: str | Path, weights: Weights, cache: Path) -> Path:
    """Folder of the OpenVINO files of a generator, exported now unless `cache` has them whole.

    Args:
        name: folder or name of a causal LM or of a LoRA adapter, which is merged.
        weights: `int8`: one scale a row of each matrix.
        cache: where exports lie, one folder each, named by what they are made from.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        CheckpointError: the converter cannot read this kind of model.
    """
    folder = base_folder(name)
    target = cache / _key(folder, weights)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process that wants the same export waits for it
            if not _is_whole(target):
                _replace(folder, weights, target)
    except OSError as error:
        raise CheckpointError(f"cannot write the export {target}: {error.strerror or error}") from error
    return target


def _replace(folder: Path, weights: Weights, target: Path) -> None:
    temporary = target.parent / f".tmp-{target.name}"
    for left in (temporary, target):  # by a crash, or damaged
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    _write(folder, weights, temporary)
    temporary.rename(target)


def _key(folder: Path, weights: Weights) -> str:
    adapter = is_adapter(folder)
    parts = [adapter_hash(folder) if adapter else "", weights_hash(adapter_base(folder) if adapter else folder)]
    parts += [weights, str(EXPORT_VERSION), version("openvino"), version("transformers")]
    return f"openvino-{weights}-{hashlib.sha256(':'.join(parts).encode()).hexdigest()[:16]}"


def _is_whole(folder: Path) -> bool:
    """Whether every file the manifest names is there and hashes as it says."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(hashes) and all(_sha256(folder / name) == wanted for name, wanted in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, weights: Weights, target: Path) -> None:
    openvino = require("openvino", _EXTRA)
    model, _ = load_causal_lm(folder)
    graph = _traced(model.float().eval())
    _hide_cache(openvino, graph, model.config)
    if weights == "int8":
        round_weights(openvino, graph)
    openvino.save_model(graph, target / f"{MODEL_NAME}.xml", compress_to_fp16=False)
    model.config.save_pretrained(target)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    hashes = {path.name: _sha256(path) for path in sorted(target.iterdir())}
    (target / MANIFEST).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


class _Flat(torch.nn.Module):
    """A causal LM whose cache goes in and comes out as plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> tuple[Any, ...]:
        """(b, t) ids, (b, s + t) mask, (b, t) places, 2 * layers of (b, h, s, d) -> logits, 2 * layers of s + t."""
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


def _attention(
    module: Any,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa for models whose heads share keys and values, (b, h, t, d) and (b, h / n, s, d) twice.

    It repeats keys and values without asking for their shapes: openvino-genai's paging looks for just this.
    """
    n = queries.shape[1] // keys.shape[1]
    keys, values = (x.unsqueeze(2).expand(-1, -1, n, -1, -1).flatten(1, 2) for x in (keys, values))
    result = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    return result.transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def _traced(model: Any) -> Any:
    # the parts of openvino.convert_model, which as a whole sends usage data to its maker
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    n_past, n_new = 3, 4  # any lengths: all of them become dynamic
    ids = torch.zeros(2, n_new, dtype=torch.long)
    places = torch.arange(n_past, n_past + n_new).repeat(2, 1)
    mask = torch.ones(2, n_past + n_new, dtype=torch.long)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, on branches that these lengths do not decide
        try:
            heads, size = _cache_shape(model.config)
            if heads != model.config.num_attention_heads:
                model.set_attn_implementation(_ATTENTION)
            past = [torch.zeros(2, heads, n_past, size) for _ in range(2 * model.config.num_hidden_layers)]
            decoder = TorchScriptPythonDecoder(_Flat(model), example_input=(ids, mask, places, *past))
            frontend = FrontEndManager().load_by_framework("pytorch")
            return frontend.convert(frontend.load(decoder))
        except Exception as error:  # the converter raises whatever the model's code does under the tracer
            raise CheckpointError(
                f"OpenVINO cannot convert a {model.config.model_type!r} model ({type(error).__name__}: {error}); "
                f"set `generator.engine` to `transformers`"
            ) from error


def _cache_shape(config: Any) -> tuple[int, int]:
    """Heads of keys and values, and their size."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, size


def _hide_cache(openvino: Any, graph: Any, config: Any) -> None:
    """Name the ports as openvino-genai does, add the rows' source `beam_idx`, and make the cache the model's state."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    heads, size = _cache_shape(config)
    for port, name in zip(graph.inputs, ("input_ids", "attention_mask", "position_ids"), strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape([-1, -1]))
    graph.outputs[0].get_tensor().set_names({"logits"})
    rows = ops.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    rows.output(0).get_tensor().set_names({"beam_idx"})
    states: dict[str, str] = {}
    for i, (past, present) in enumerate(zip(graph.inputs[3:], graph.outputs[1:], strict=True)):
        names = tuple(f"{when}.{i // 2}.{('key', 'value')[i % 2]}" for when in ("past_key_values", "present"))
        past.get_tensor().set_names({names[0]})
        present.get_tensor().set_names({names[1]})
        states[names[0]] = names[1]
        past.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
        readers = past.get_target_inputs()
        gathered = ops.gather(past, rows, ops.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    graph.add_parameters([rows])
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, states)
    _start_empty(openvino, graph, heads, size)


def _start_empty(openvino: Any, graph: Any, heads: int, size: int) -> None:
    """Let the state begin as (b, heads, 0, size)."""
    from openvino import opset13 as ops

    shape = ops.shape_of(graph.input("input_ids"), output_type="i64")
    batch = ops.gather(shape, ops.constant([0]), ops.constant(0))
    empty = ops.concat([batch, ops.constant(np.array([heads, 0, size], np.int64))], axis=0)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=openvino.Type.f32), empty)])
    graph.validate_nodes_and_infer_types()


def round_weights(openvino: Any, graph: Any) -> None:
    """Keep each weight matrix as int8 and one float32 scale a row: the pattern OpenVINO computes with as int8."""
    from openvino import opset13 as ops

    for node in graph.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        readers = node.output(0).get_target_inputs()
        if len(node.get_output_shape(0)) != 2 or {r.get_node().get_type_name() for r in readers} - {"MatMul", "Gather"}:
            continue
        matrix = np.asarray(node.data)  # (outputs, inputs), or (vocabulary, size)
        scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
        rounded = ops.convert(ops.constant(np.rint(matrix / scale).astype(np.int8)), "f32")
        restored = ops.multiply(rounded, ops.constant(scale))
        for reader in readers:
            reader.replace_source_output(restored.output(0))
    graph.validate_nodes_and_infer_types()
