"""The results page of the serving benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results_page import markdown_table, page_head

AIMS = {  # row -> the aim in words, and a check whether the row reaches it
    "hit_1": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "hit_1_redis": ("at most 2 x the raw read", lambda row: row["ratio"] <= 2),
    "student_with_encoder": ("p99 under 30 ms on one core", lambda row: row["cpu_p99_ms"] < 30),
    "service_rank_100_at_10x": ("no answers but 200 and 429", lambda row: row["n_errors"] == 0),
}
COLUMNS = {  # heading -> key of a row
    "p50": "p50_ms",
    "p99": "p99_ms",
    "raw p50": "baseline_p50_ms",
    "ratio": "ratio",
    "CPU p50": "cpu_p50_ms",
    "CPU p99": "cpu_p99_ms",
    "stock p50": "stock_p50_ms",
    "stock p99": "stock_p99_ms",
}
EXPLANATION = """\
- `hit_N`: `FeatureClient.job_seekers` for N seekers who have both vectors in the store. `student`: a seeker with a CV
  vector and no generated JD. `student_with_encoder`: an unseen seeker whose CV of a thousand words is encoded for the
  request. `mixed_100`: a hundred seekers, of whom 90 are hits, 5 are stale and 5 unseen; the generation queue is on.
- `raw` reads the same two vectors per seeker from the same kind of store with nothing around it: SQLite's
  `SELECT ... IN` over two bare tables, or Redis' `MGET`. It knows no tiers, times, checks or deadlines. `stock` is
  Feast's `get_online_features` on Feast's own store. All take turns on one core.
- A hit takes longer than the raw read because of some 260 calls of Python and numpy: checks of dimension and
  finiteness, tiers, ages, the queue. In a profile none of them took a tenth of the difference.
- On a shared machine p99 mostly measures other work, and only ratios can be trusted. `CPU` is the processor time of our
  look-up, all threads together; the aim for one core is judged by it.
- `service_rank_100_at_10x`: `POST /rank` with a hundred jobs over HTTP on loopback, from ten times as many connections
  as the service has places, each asking again at once. `raw` is one caller alone; times are of the answers with 200."""


def page(rows: Sequence[dict[str, Any]], n_seekers: int) -> list[str]:
    """Return the lines of the results page."""
    facts = {"Data": f"{n_seekers} seekers, 384 dimensions", "Unit": "milliseconds"}
    cells = [[f"`{row['name']}`", *(_number(row, key) for key in COLUMNS.values())] for row in rows]
    aims = [_aim(row) for row in rows if row["name"] in AIMS]
    return [*page_head("Serving", facts), *markdown_table(["", *COLUMNS], cells), "", *aims, "", EXPLANATION]


def _number(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.4g}" if key in row else ""


def _aim(row: dict[str, Any]) -> str:
    aim, is_reached = AIMS[row["name"]]
    line = f"- `{row['name']}`: the aim is {aim}; {'reached' if is_reached(row) else 'missed'}"
    if "statuses" in row:
        counts = ", ".join(f"{n} x {status}" for status, n in row["statuses"].items())
        line += f" ({counts})"
    return f"{line}."
