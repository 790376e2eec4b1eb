"""Precision of the arithmetic in training. The weights themselves are float32 in every case (docs/adr/0021)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch

from girl_features.config import PrecisionSetting
from girl_features.generator.tuning import LORA_FROM

Precision = Literal["float32", "bfloat16"]
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}  # the names that torch gives to them
CPU_INFO = Path("/proc/cpuinfo")
_log = logging.getLogger(__name__)


def cpu_has_bfloat16() -> bool:
    """True if this CPU has instructions for bfloat16; without them bfloat16 is slower than float32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if capabilities.keys() >= _INSTRUCTIONS:
        return any(capabilities[name] for name in _INSTRUCTIONS)
    try:  # of an older torch, or of a CPU by another maker
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return bool(flags & {*_INSTRUCTIONS, "bf16"})  # bf16: of ARM


def settle_precision(setting: PrecisionSetting, n_parameters: int) -> Precision:
    """Return the precision to train in on this machine.

    `auto` is bfloat16 on GPUs, and on CPUs with bfloat16 instructions for models of 30 million parameters or more.
    """
    gpu = torch.cuda.is_available()
    if setting == "auto":
        return "bfloat16" if gpu or (n_parameters >= LORA_FROM and cpu_has_bfloat16()) else "float32"
    if setting == "bfloat16" and not gpu and not cpu_has_bfloat16():
        _log.warning("this CPU has no instructions for bfloat16, so training in it is slower than in float32")
    return setting


def stage_3_precision() -> Precision:
    """Return the precision of stage 3: bfloat16 on GPUs; on CPUs float32, as most of its time goes into sampling."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def precision_of(trainer: Any) -> Precision:
    """Return the precision that a trainer of `transformers` trains in."""
    return "bfloat16" if trainer.args.bf16 else "float32"
