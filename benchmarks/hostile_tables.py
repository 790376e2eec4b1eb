"""Try input tables as strangers have them, and count right answers, refusals, tracebacks and wrong answers.

python benchmarks/hostile_tables.py [--quick] [--markdown FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from hostile_cases import Case, glob_cases, typed_cases
from hostile_commands import ODD, READING, answers, build_workspace
from hostile_names import NAMES, name_cases
from hostile_text_files import text_file_cases
from hostile_world import NOW, TABLES, Rows
from measuring import page_head, write_json, write_page

from girl_features.errors import GirlError
from girl_features.input.tables import Tables, load_tables

RIGHT = ("read rightly", "refused by name")
OUTCOMES = (*RIGHT, "refused without the name", "traceback", "silently wrong")
COMMANDS = "a command on odd tables"
TESTED = {  # test file -> what it generates
    "test_parquet_globs.py": "files of one path: every kind of value alone, in pairs, and mixed",
    "test_text_files.py": "7 dialects of delimited text, 1,000 files each; damaged files",
    "test_exact_ids.py": "1,440 sets of ids: 30 types of entity rows by 16 stored types",
    "test_entity_rows.py": "entity rows of every shape and type of time; 1,000 online ids",
    "test_feature_types.py": "every Arrow type, offline and online, on SQLite and Redis",
    "test_integer_ids.py": "INT64 and INT32 entities, offline and online",
    "test_join_table.py": "tables for `girl join`, as files and data frames",
    "test_times.py": "formats, units and zones of times, 1,000 rows each",
    "test_html.py": "2,000 texts with HTML",
    "test_advice.py": "every suggestion, applied: 1,000 rows each",
    "test_config_messages.py": "1,000 mistakes in girl.yaml",
    "test_redaction.py": "9,000 sentences in ten scripts",
    "test_quality_gate.py": "generators good and bad, 1,000 JDs each",
}


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


def read_families(folder: Path, seed: int, quick: bool) -> Iterator[tuple[str, str, Result]]:
    """Yield family, name and result of every set of input tables, and of every command on odd tables."""
    families = (
        typed_cases(folder, seed, tries=1 if quick else 6),
        glob_cases(folder, seed, n=100 if quick else 1000),
        name_cases(folder, seed, NAMES[::6] if quick else NAMES),
        text_file_cases(folder, seed, n=3 if quick else 100),
    )
    for case in chain(*families):
        yield case.family, case.name, try_tables(case)
    build_workspace(folder / "workspace")
    for odd in ODD[::6] if quick else ODD:
        for answer in answers(folder / "workspace", odd, list(READING)):
            outcome = "read rightly" if answer.outcome == "answered" else answer.outcome
            yield COMMANDS, f"{answer.command}: {odd.name}", Result(outcome, answer.message)


def run_tests(folder: Path) -> dict[str, Counter[str]]:
    """Run the tests in TESTED, and return how many passed, failed or were skipped, by file."""
    report = folder / "tests.xml"
    tests = [f"tests/{name}" for name in TESTED]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests],
        cwd=Path(__file__).resolve().parents[1],
        check=False,
        stdout=sys.stderr,
    )
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for test in ElementTree.parse(report).iter("testcase"):
        outcome = next((child.tag for child in test if child.tag in ("failure", "error", "skipped")), "passed")
        counts[test.get("classname", "").rpartition(".")[2] + ".py"][outcome] += 1
    return counts


def page(counts: dict[str, Counter[str]], tests: dict[str, Counter[str]], seed: int) -> list[str]:
    """Return the lines of the page of results."""
    lines = page_head("Hostile tables", {"Seed": str(seed), "Simulation": "every table is generated"})
    lines += [
        "Each input is a set of tables as a stranger's lake or database may hold them. An oracle that shares no code",
        "with the package says which rows they hold (`benchmarks/hostile_world.py`). An input counts as *read rightly*",
        "if exactly these rows are kept and every other row is reported as rejected; as *refused by name* if the error",
        "names table and column, or the file. Both are right answers. For a command, *read rightly* means that it",
        "answered: its figures have no oracle here.",
        "",
        "| inputs | tried | " + " | ".join(OUTCOMES) + " |",
        "|---" * (len(OUTCOMES) + 2) + "|",
    ]
    total: Counter[str] = Counter()
    for family, outcomes in counts.items():
        lines.append(_row(family, outcomes))
        total += outcomes
    lines.append(_row("**all**", total))
    if tests:
        lines += [
            "",
            "Tests ask the same of the stores, of `girl join`, of settings and of redaction. Each generates its own",
            "inputs and has its own oracle:",
            "",
            "| test file | inputs | passed | failed | skipped |",
            "|---|---|---|---|---|",
        ]
        for name, found in tests.items():
            n_failed = found["failure"] + found["error"]
            lines.append(f"| `{name}` | {TESTED[name]} | {found['passed']} | {n_failed} | {found['skipped']} |")
    return lines


def _row(family: str, outcomes: Counter[str]) -> str:
    cells = [f"{sum(outcomes.values()):,}", *(f"{outcomes[name]:,}" for name in OUTCOMES)]
    return f"| {family} | " + " | ".join(cells) + " |"


def main() -> None:
    """Run the benchmark. Exit 1 if an answer was wrong or a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tables, and no tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    faults: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        for family, name, result in read_families(Path(folder), arguments.seed, arguments.quick):
            counts[family][result.outcome] += 1
            if result.outcome not in RIGHT:
                faults.append({"family": family, "case": name, **result._asdict()})
                print(f"{family}: {name}: {result.outcome}: {result.detail}", file=sys.stderr)
        tests = {} if arguments.quick else run_tests(Path(folder))
    write_json(arguments.json, {"counts": counts, "tests": tests, "faults": faults})
    lines = page(counts, tests, arguments.seed)
    print("\n".join(lines))
    write_page(arguments.markdown, lines)
    has_failed = any(found["failure"] or found["error"] for found in tests.values())
    sys.exit(1 if faults or has_failed else 0)


if __name__ == "__main__":
    main()
