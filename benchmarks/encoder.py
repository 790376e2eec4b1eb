"""Measure texts per second of the default text encoder on every engine, and how close its vectors are to float32's.

    python benchmarks/encoder.py --json FILE                          # CVs and JDs of GIRL_DATA/careers
    python benchmarks/encoder.py --data sample --texts 48 --cpu-time  # CVs and JDs of the simulated market

`--data` names a folder that holds job_seekers.parquet and jobs.parquet. All engines get the same texts, longest first,
in batches of 32, on `--threads` threads (default 1). Time includes tokenizing. Each engine first encodes all texts
once, since engines compile at their first use; then they take turns, and the median counts. On a machine with other
work, `--cpu-time` counts the CPU seconds of this process; with one thread that is about the time an idle machine
needs. Trust the ratios more than the rates. `cosine_*` compare each vector with the one of sentence-transformers in
float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import polars as pl
import torch
from measuring import CLOCKS, median_rates
from results_page import describe, write_json
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoModel

from girl_features.encoder import DEFAULT_ENCODER, find_encoder_folder
from girl_features.evaluation.machine import machine_description
from girl_features.generator.openvino_graph import round_weights, trace_graph
from girl_features.sample.tables import write_sample
from girl_features.vectors.similarity import unit_rows

BATCH = 32
TEXTS, ROUNDS, QUICK = 256, 3, (64, 1)
REFERENCE = "sentence-transformers float32"
OPENVINO = {  # row -> weights, type of computation
    "openvino float32": ("float32", "f32"),
    "openvino bfloat16": ("float32", "bf16"),
    "openvino int8 weights, float32": ("int8", "f32"),
    "openvino int8 weights, bfloat16": ("int8", "bf16"),
}
ONNX = "onnxruntime float32"
PACKAGES = ("openvino", "onnxruntime")
Encode = Callable[[list[str]], np.ndarray]  # n texts to (n, d) float32 unit vectors
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (b, t) int64 ids and mask to (b, d) float32


def read_texts(data: str, n: int) -> list[str]:
    """Return n different texts, half CVs and half JDs, longest first.

    sentence-transformers sorts texts by length too, so all engines get the same batches.
    """
    with tempfile.TemporaryDirectory(prefix="girl-encoder-") as name:
        folder = Path(name if data == "sample" else data)
        if data == "sample":
            write_sample(folder, n_seekers=n)
        columns = [("job_seekers", "cv"), ("jobs", "jd")]
        tables = [pl.read_parquet(folder / f"{table}.parquet")[column] for table, column in columns]
    cvs, jds = (texts.unique(maintain_order=True).shuffle(seed=0).to_list() for texts in tables)
    return sorted(cvs[: n - n // 2] + jds[: n // 2], key=len, reverse=True)


def by_sentence_transformers(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    vectors = model.encode(texts, batch_size=BATCH, show_progress_bar=False, convert_to_tensor=True)
    return unit_rows(vectors.float().numpy())  # bfloat16 is too coarse for a length of exactly one


class Pooled(torch.nn.Module):
    """The encoder's transformer with mean pooling, for export to other engines."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(str(folder), use_safetensors=True, attn_implementation="eager").eval()
        self.example = torch.ones(
            2, 2, 7, dtype=torch.long
        ).unbind()  # ids and mask; the export makes both sizes dynamic

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).float()
        return (hidden * mask).sum(1) / mask.sum(1)


def openvino_run(module: Pooled, weights: str, precision: str, threads: int) -> Run:
    import openvino

    graph = trace_graph(module, module.example)
    graph.reshape({port: openvino.PartialShape([-1, -1]) for port in graph.inputs})
    if weights == "int8":
        round_weights(graph)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(graph, "CPU", hints)
    return lambda ids, mask: np.array(compiled([ids, mask])[0])


def onnx_run(module: Pooled, threads: int) -> Run:
    import onnxruntime

    dynamic = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask")}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # This step of the export needs the package `onnx`. It adds functions, and this model has none, so it is skipped.
    step = "torch.onnx._internal.torchscript_exporter.onnx_proto_utils._add_onnxscript_fn"
    with tempfile.TemporaryDirectory() as folder, patch(step, lambda model, _: model):
        file = f"{folder}/encoder.onnx"
        torch.onnx.export(module, module.example, file, input_names=[*dynamic], dynamic_axes=dynamic, dynamo=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0]


def in_batches(tokenizer: Tokenizer, run: Run, texts: list[str]) -> np.ndarray:
    batches = (tokenizer.encode_batch(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH))  # each padded
    vectors = [run(np.array([t.ids for t in batch]), np.array([t.attention_mask for t in batch])) for batch in batches]
    return unit_rows(np.concatenate(vectors))


def open_engines(tokenizer: Tokenizer, folder: Path, threads: int) -> dict[str, Encode]:
    """Return the engines that are installed, by row; the reference comes first."""
    engines: dict[str, Encode] = {}
    for dtype in ("float32", "bfloat16"):
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
        engines[f"sentence-transformers {dtype}"] = partial(by_sentence_transformers, model)
    tokenizer.enable_truncation(int(model.max_seq_length))
    tokenizer.enable_padding()
    module, runs = Pooled(folder), {}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracers warn of branches that do not matter here
        if find_spec("openvino"):
            runs |= {name: openvino_run(module, *kind, threads) for name, kind in OPENVINO.items()}
        if find_spec("onnxruntime"):
            runs[ONNX] = onnx_run(module, threads)
    return engines | {name: partial(in_batches, tokenizer, run) for name, run in runs.items()}


def measure(engines: dict[str, Encode], texts: list[str], rounds: int, cpu_time: bool) -> list[dict[str, Any]]:
    """Return rate and cosines of each engine."""
    vectors = {name: encode(texts) for name, encode in engines.items()}

    def run(name: str, round_number: int) -> dict[str, float]:
        engines[name](texts)
        return {"texts_per_s": len(texts)}

    rates = median_rates(list(engines), run, rounds, CLOCKS[cpu_time])
    rows: list[dict[str, Any]] = []
    for name in engines:
        rate = rates[name]["texts_per_s"]
        cosines = (vectors[name].astype(np.float64) * vectors[REFERENCE]).sum(axis=1)
        row = {"name": name, "texts_per_s": rate, "over_float32": rate / rates[REFERENCE]["texts_per_s"]}
        rows.append({**row, "cosine_min": float(cosines.min()), "cosine_mean": float(cosines.mean())})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, metavar="N", help=f"{TEXTS} by default")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{ROUNDS} by default")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} texts and {QUICK[1]} round by default")
    parser.add_argument("--json", type=Path, metavar="FILE")
    data = str(Path(os.environ["GIRL_DATA"]) / "careers") if "GIRL_DATA" in os.environ else "sample"
    parser.add_argument(
        "--data", default=data, help="folder, or `sample`; careers in the folder GIRL_DATA if that is set"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds of this process")
    arguments = parser.parse_args()
    if arguments.cpu_time and arguments.threads > 1:
        parser.error("--cpu-time adds up the seconds of all threads; use it with --threads 1")
    torch.set_num_threads(arguments.threads)
    n_texts, n_rounds = QUICK if arguments.quick else (TEXTS, ROUNDS)
    texts = read_texts(arguments.data, arguments.texts or n_texts)
    folder = find_encoder_folder(DEFAULT_ENCODER)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    engines = open_engines(tokenizer, folder, arguments.threads)
    n_tokens = statistics.fmean(sum(t.attention_mask) for t in tokenizer.encode_batch(texts))
    result = {"encoder": DEFAULT_ENCODER, "data": Path(arguments.data).name, "simulation": arguments.data == "sample"}
    result |= {
        "n_texts": len(texts),
        "mean_tokens": n_tokens,
        "threads": arguments.threads,
        "cpu_time": arguments.cpu_time,
    }
    result["machine"] = "; ".join([machine_description(), *(f"{x} {version(x)}" for x in PACKAGES if find_spec(x))])
    print(describe(result), flush=True)
    rows = measure(engines, texts, arguments.rounds or n_rounds, arguments.cpu_time)
    rows += [{"name": name, "missing": "not installed"} for name in (*OPENVINO, ONNX) if name not in engines]
    for row in rows:
        print(describe(row))
    write_json(arguments.json, {**result, "rows": rows})


if __name__ == "__main__":
    main()
