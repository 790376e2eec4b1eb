"""OpenVINO graphs of PyTorch models: trace a model, and round its weights to int8."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from girl_features.errors import require

EXTRA = "openvino"


def trace_graph(module: torch.nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    """Trace `module`, which is in evaluation mode, as an OpenVINO graph of inputs with these types and ranks.

    OpenVINO and PyTorch raise many types of errors for a module that they cannot convert.
    """
    # `openvino.convert_model` does the same, but also sends usage data to Intel.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of branches on shapes, which are the same for all inputs
        decoder = TorchScriptPythonDecoder(module, example_input=example_inputs)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))


def round_weights(graph: Any) -> None:
    """Round each weight matrix in `graph` to int8, with one float32 scale for each row.

    OpenVINO recognizes int8 constants that are converted and scaled, and then computes in int8.
    """
    openvino = require("openvino", EXTRA)
    from openvino import opset13 as ops

    for node in graph.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        readers = node.output(0).get_target_inputs()
        reader_types = {reader.get_node().get_type_name() for reader in readers}
        if len(node.get_output_shape(0)) != 2 or not reader_types <= {"MatMul", "Gather"}:
            continue
        matrix = np.asarray(node.data)  # (outputs, inputs), or (vocabulary, size)
        scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
        rounded = ops.convert(ops.constant(np.rint(matrix / scale).astype(np.int8)), "f32")
        restored = ops.multiply(rounded, ops.constant(scale))
        for reader in readers:
            reader.replace_source_output(restored.output(0))
    graph.validate_nodes_and_infer_types()
