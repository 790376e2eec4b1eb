"""The results page of the serving benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from girl_features.evaluation.machine import machine_description

AIMS = {  # row -> what was aimed at, and whether these figures reach it
    "hit_1": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "hit_1_redis": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "student_with_encoder": ("p99 under 30 ms on one core", lambda row: row["cpu_p99_ms"] < 30),
    "service_rank_100_at_10x": ("nothing but 200 and 429", lambda row: row["n_errors"] == 0),
}
WHAT = """\
- `hit_N`: N seekers with both vectors in the store, by `FeatureClient.job_seekers`. `student`: one with a CV vector and
  no generated JD. `student_with_encoder`: an unseen one with a CV of a thousand words, encoded for the request.
  `mixed_100`: a hundred, of whom 90 are hits, 5 are stale and 5 unseen, with the queue for generation at work.
- `raw` reads the same two vectors a seeker from the same kind of store with nothing around it: SQLite's
  `SELECT ... IN` over two bare tables, Redis' `MGET`. It knows no tiers, times, checks or deadlines. `stock` is Feast's
  `get_online_features` on Feast's own store. All are asked in turns, on one core.
- What a hit costs beyond the raw read is spread over some 260 calls of Python and numpy (dimension and finiteness
  checked, tiers, ages, the queue); under a profiler none took a tenth of it.
- Where a machine is shared, p99 is mostly other people's work, and only ratios say something. `CPU` is what the
  processor spent on our look-up, all threads together: by that the aim for one core is judged.
- `service_rank_100_at_10x`: `POST /rank` with a hundred jobs over HTTP on loopback, from ten times as many connections
  as the service has places for, each asking again at once. `raw` is one caller alone; times are of the 200s."""


def write_page(path: Path, rows: Sequence[dict[str, Any]], command: str, seekers: int) -> None:
    """Write the Markdown page of these rows."""
    lines = [
        "# Serving",
        "",
        f"    {command}",
        "",
        f"{machine_description()}; {datetime.now(UTC):%Y-%m-%d}; {seekers} seekers, 384 dimensions. Milliseconds.",
        "",
        "| | p50 | p99 | raw p50 | ratio | CPU p50 | CPU p99 | stock p50 | stock p99 |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        *(_aim(row) for row in rows if row["name"] in AIMS),
        "",
        WHAT,
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    names = ("p50_ms", "p99_ms", "baseline_p50_ms", "ratio", "cpu_p50_ms", "cpu_p99_ms", "stock_p50_ms", "stock_p99_ms")
    return " | ".join([f"| `{row['name']}`", *(f"{row[name]:.4g}" if name in row else "" for name in names)]) + " |"


def _aim(row: dict[str, Any]) -> str:
    aim, is_reached = AIMS[row["name"]]
    statuses = (
        f" ({', '.join(f'{n} x {status}' for status, n in row['statuses'].items())})" if "statuses" in row else ""
    )
    return f"- `{row['name']}`: aimed at {aim}; {'reached' if is_reached(row) else 'missed'}{statuses}."
