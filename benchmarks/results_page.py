"""Write the results of a benchmark: JSON for machines, a Markdown page for people."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from girl_features.evaluation.machine import machine_description


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
