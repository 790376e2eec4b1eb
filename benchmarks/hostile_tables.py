"""Try input tables as strangers have them, and count right answers, refusals, tracebacks and wrong answers.

python benchmarks/hostile_tables.py [--quick] [--markdown FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from hostile_cases import Case, glob_cases, typed_cases
from hostile_world import NOW, TABLES, Rows
from measuring import page_head, write_json, write_page

from girl_features.errors import GirlError
from girl_features.input.tables import Tables, load_tables

RIGHT = ("read rightly", "refused by name")
OUTCOMES = (*RIGHT, "refused without the name", "traceback", "silently wrong")


class Result(NamedTuple):
    """The outcome of one case, and the message or the difference."""

    outcome: str
    detail: str


def try_tables(case: Case) -> Result:
    """Read the tables of a case as `girl check` does, and compare the kept rows with the expected ones."""
    try:
        with load_tables(case.tables, now=NOW, clock_skew=timedelta(0)) as tables:
            return _compared(case, tables)
    except GirlError as error:
        message = str(error)
        is_named = all(word in message for word in case.named)
        return Result("refused by name" if is_named else "refused without the name", message)
    except Exception as error:  # any other error is what this benchmark is looking for
        return Result("traceback", f"{type(error).__name__}: {error}")


def _compared(case: Case, tables: Tables) -> Result:
    if case.expected is None:
        return Result("silently wrong", "the values tell nothing certain, but they were read")
    for table, columns in TABLES.items():
        counts = tables.report.tables[table]
        n_written = case.n_rows.get(table, counts.n_read)
        if counts.n_read != n_written or counts.n_read != counts.n_kept + sum(counts.rejected.values()):
            return Result("silently wrong", f"{table}: {n_written} rows were written, the report says {counts}")
        rows = _utc(tables.connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY ALL").fetchall())
        if sorted(rows) != case.expected[table]:
            extra, missing = set(rows) - set(case.expected[table]), set(case.expected[table]) - set(rows)
            return Result("silently wrong", f"{table}: unexpected {sorted(extra)[:2]}, missing {sorted(missing)[:2]}")
    return Result("read rightly", "")


def _utc(rows: Rows) -> Rows:
    return [tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row) for row in rows]


def all_cases(folder: Path, seed: int, quick: bool) -> Iterable[Case]:
    """Yield every case, written to `folder` one after the other."""
    yield from typed_cases(folder, seed, tries=1 if quick else 6)
    yield from glob_cases(folder, seed, n=100 if quick else 1000)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    faults: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        for case in all_cases(Path(folder), arguments.seed, arguments.quick):
            result = try_tables(case)
            counts[case.family][result.outcome] += 1
            if result.outcome not in RIGHT:
                faults.append({"family": case.family, "case": case.name, **result._asdict()})
    write_json(arguments.json, {"counts": counts, "faults": faults})
    lines = page_head("Hostile tables", {"Seed": str(arguments.seed)})
    lines += ["| family | inputs tried | " + " | ".join(OUTCOMES) + " |", "|---" * (len(OUTCOMES) + 2) + "|"]
    for family, outcomes in counts.items():
        cells = [f"{sum(outcomes.values()):,}", *(f"{outcomes[name]:,}" for name in OUTCOMES)]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    write_page(arguments.markdown, lines)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
