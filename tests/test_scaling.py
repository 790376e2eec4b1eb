"""What docs/scaling.md prints is what its formulas give for its inputs."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from girl_features.schema import GENERATED_JDS
from girl_features.store.online.publishing import publish
from tests.fakes import feature_contract
from tests.served_market import served_market
from tests.store_rows import Row, cv_table, generated_table

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")


def test_the_plan_is_what_its_formulas_print() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    block = "".join(f"    {line}\n" for line in printed.getvalue().splitlines())
    assert block.count("\n") > 5
    assert block in PAGE


def _inputs() -> dict[str, float]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    found: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, found)
    return found


def test_the_stores_rates_are_those_of_its_results() -> None:
    rows = {row["name"]: row["ours"] for row in json.loads((DOCS / "results" / "store.json").read_text())}
    assert f"{rows['materialize_sqlite']:,.0f}; {rows['materialize_redis']:,.0f}" in PAGE
    assert _inputs()["publish"] == round(rows["materialize_redis"])
    assert {round(rows[f"append_1k_onto_{n}"], 3) for n in ("100k", "1m")} == {0.009}
    assert "| .009 | store.md" in PAGE


def test_a_seeker_takes_so_many_rows_and_bytes_online(tmp_path: Path) -> None:
    contract, known_at = feature_contract(dimension=384), datetime(2022, 3, 4, tzinfo=UTC)
    market = served_market(tmp_path, contract=contract)
    rows = [Row(f"s{i:08d}", known_at, known_at, [0.5] * 384) for i in range(5)]
    market.store.write_part("cv_vectors", contract.encoder.fingerprint, cv_table(contract, rows))
    generated = generated_table(contract, rows)
    place, field = generated.schema.get_field_index(GENERATED_JDS), generated.schema.field(GENERATED_JDS)
    generated = generated.set_column(place, field, pa.array([["x" * 600]] * len(rows), field.type))
    market.store.write_part("generated_jds", contract.fingerprint, generated)
    publish(market.config.feast_repo, market.store, contract)
    n_rows = n_bytes = 0
    with closing(sqlite3.connect(market.config.feast_repo / "data" / "packed.db")) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            query = f'SELECT count(*), coalesce(sum(length(entity_key) + length(data)), 0) FROM "{table}"'
            n, size = connection.execute(query).fetchone()
            n_rows, n_bytes = n_rows + n, n_bytes + size
    assert n_rows / len(rows) == _inputs()["views"]
    assert round(n_bytes / len(rows), -2) == _inputs()["online"], "4,002, of which the keys are 126"
