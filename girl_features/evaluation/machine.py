"""The machine a result was measured on, in one line, without the host's name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

_PACKAGES = (
    "girl-features",
    "feast",
    "duckdb",
    "numpy",
    "torch",
    "transformers",
    "trl",
    "sentence-transformers",
    "lightgbm",
)


def machine_description() -> str:
    """Return CPU model, usable cores, memory in GiB, system, Python version and the versions of key packages."""
    facts = [_cpu_model(), f"{_n_cores()} cores"]
    memory = _memory_bytes()
    if memory is not None:
        facts.append(f"{memory / 2**30:.1f} GiB memory")
    facts += [platform.system(), f"Python {platform.python_version()}"]
    return ", ".join(facts) + "; " + ", ".join(_versions())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if models and models[0]:
        return models[0]
    return platform.processor() or platform.machine()


def _n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not POSIX, or the name is unknown there
        return None


def _versions() -> list[str]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
