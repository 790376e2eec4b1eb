"""Shared parts of the benchmarks: processes, Redis, made-up contracts, vectors and rows, and the files of results."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from girl_features import schema
from girl_features.contract import EncoderContract, FeatureContract, SamplingContract
from girl_features.machine import machine_description
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS, VIEWS

FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what Feast prints and warns of."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def new_process() -> ProcessPoolExecutor:
    """Return an executor with one fresh Python process, so that memory and caches are those of its work alone."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process in MB.

    `getrusage` is no use here: it also counts the memory of the parent process at the fork.
    """
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


@contextmanager
def redis_server() -> Iterator[str | None]:
    """Run a Redis server on a free port and give its address; give None if Redis is not installed."""
    if shutil.which("redis-server") is None:
        print("redis-server is not installed, so its rows are left out", file=sys.stderr)
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        time.sleep(0.5)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.terminate()


def made_up_encoder(dimension: int) -> EncoderContract:
    """Return a contract of an encoder that does not exist."""
    fields = {"name": "none", "weights_sha256": "0" * 64, "max_tokens": 256, "pooling": "mean", "normalized": True}
    return EncoderContract.model_validate({**fields, "dtype": "float32", "dimension": dimension})


def made_up_contract(name: str, encoder: EncoderContract, **settings: Any) -> FeatureContract:
    """Return a contract of a generator that does not exist. `settings` replace fields of the contract."""
    fields = {
        "generator": name,
        "weights_sha256": "0" * 64,
        "adapter_sha256": None,
        "trained_until": datetime(2000, 1, 1, tzinfo=UTC),
        "prompt_version": name,
        "max_cv_tokens": 1,
        "sampling": SamplingContract(n=1, temperature=0, top_p=1, max_new_tokens=1, seed=0),
        "encoder": encoder,
    }
    return FeatureContract.model_validate({**fields, **settings})


def write_rows(store: PartsStore, contract: FeatureContract, view: str, rows: Mapping[str, Any]) -> None:
    """Write one part of a view. `rows` gives columns of n values each; the view's others get one constant for all n."""
    n = len(next(iter(rows.values())))
    fingerprint = contract.fingerprint if view == GENERATED_JDS else contract.encoder.fingerprint
    constants: dict[pa.DataType, Any] = {pa.string(): "x", pa.bool_(): False, pa.int64(): 1, pa.float64(): 0.1}
    constants |= {pa.float32(): 0.0, pa.list_(pa.string()): ["x"], pa.list_(pa.int64()): [0]}
    constants[schema.UTC_MICROSECONDS] = FIRST_DAY
    columns = VIEWS[view].schema
    filled = {field.name: [constants.get(field.type)] * n for field in columns}
    filled |= {**rows, schema.CONTRACT: [fingerprint] * n}
    store.write_part(view, fingerprint, pa.table(filled, schema=columns))


def random_unit_vectors(rng: np.random.Generator, n: int, dimension: int) -> np.ndarray:
    """Return (n, dimension) float32 random vectors of length one."""
    vectors = rng.standard_normal((n, dimension), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_json(path: Path | None, results: Any) -> None:
    """Write `results` to `path` and make its folder. Do nothing if the user asked for no JSON."""
    if path is not None:
        _write(path, json.dumps(results, indent=1))


def write_page(path: Path | None, lines: Iterable[str]) -> None:
    """Write the lines of a Markdown page to `path` and make its folder. Do nothing if the user asked for no page."""
    if path is not None:
        _write(path, "\n".join(lines))


def page_head(title: str, facts: Mapping[str, str]) -> list[str]:
    """Return the first lines of a page: title, the command of this run, date, machine and `facts`."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    known = {"Date": str(datetime.now(UTC).date()), "Machine": machine_description(), **facts}
    return [f"# {title}", "", f"    {command}", "", *(f"- **{name}:** {fact}" for name, fact in known.items()), ""]


def describe(row: Mapping[str, Any]) -> str:
    """Return one line for the screen with all that a result row says."""
    return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
