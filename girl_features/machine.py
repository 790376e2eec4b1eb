"""The machine a result was measured on, in one line, without the host's name."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = "girl-features feast duckdb numpy torch transformers trl sentence-transformers lightgbm"


def machine_description() -> str:
    """Return CPU model, usable cores, memory in GiB, system, Python version and the versions of key packages."""
    facts = [cpu_model(), f"{n_cores()} cores"]
    with suppress(AttributeError, ValueError, OSError):  # not POSIX, or it lacks these settings
        facts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB memory")
    facts += [platform.system(), f"Python {platform.python_version()}"]
    versions = installed_versions(_PACKAGES.split())
    return ", ".join(facts) + "; " + ", ".join(f"{name} {number}" for name, number in versions.items())


def n_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return name -> version of each of the packages that is installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """Return the name of the kind of CPU, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models and models[0] else platform.processor() or platform.machine()
