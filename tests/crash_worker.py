"""Store work in forked children that are killed.

Each child appends to `acks.txt` whatever work it has been told is done.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import FeatureStore

from girl_features.store.failpoints import VARIABLE
from girl_features.store.online.packed_rows import PackedRow
from girl_features.store.parts.compaction import compact, erase_rows
from girl_features.store.parts.part_files import commit_part
from tests.feast_repos import DAY, OUR_ENGINE, OUR_OFFLINE, OUR_SQLITE, feature_view, open_store, row, write_parts
from tests.forked_jobs import Job, serve_requests

ENGINE_ROWS = 25_000


class Child:
    """Work of one forked child."""

    def __init__(self, folder: Path, number: int, store: FeatureStore | None) -> None:
        self.folder, self.number, self.store = folder, number, store
        self.acks = os.open(folder / "acks.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def ack(self, *words: str) -> None:
        os.write(self.acks, "".join(f"{word}\n" for word in words).encode())

    def append(self, round_number: int) -> None:
        ids = [f"{self.number}.{round_number}.{i}" for i in range(20)]
        commit_part(self.folder / "parts", pa.table({"id": ids}))
        self.ack(*ids)

    def compact(self, round_number: int) -> None:
        self.append(round_number)
        if round_number % 3 == 2:
            compact(self.folder / "parts")

    def erase(self, round_number: int) -> None:
        self.append(round_number)
        gone = f"{self.number}.{round_number}.7"
        erase_rows(self.folder, [self.folder / "parts"], "id", gone)
        self.ack(f"-{gone}")

    def online(self, round_number: int) -> None:
        assert self.store is not None
        view, online = self.store.get_feature_view("facts"), self.store._get_provider().online_store
        keys = [f"{self.number}.{round_number}.{i}" for i in range(50)]
        online.write_packed(self.store.config, view, [PackedRow(key.encode(), 1, 1, key.encode()) for key in keys])
        self.ack(*(f"online {key}" for key in keys))

    def engine(self, round_number: int) -> None:
        assert self.store is not None
        with redirect_stdout(sys.stderr):  # stdout is for the answers of the parent process
            self.store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=1))
        self.ack("materialized")


def run(folder: Path, number: int, store: FeatureStore | None, request: dict[str, Any]) -> None:
    child = Child(folder, number, store)
    for round_number in range(request["rounds"]):
        if request["failpoint"] and round_number >= request["after"]:
            os.environ[VARIABLE] = request["failpoint"]
        getattr(child, request["job"])(round_number)


def main(folder: Path) -> None:
    (folder / "parts").mkdir()
    write_parts(folder / "facts", [row(f"s{i}", 0, 0, i % 7 + 1) for i in range(ENGINE_ROWS)])
    store = open_store(
        folder / "repo", [feature_view(folder / "facts")], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE
    )
    numbers = count(1)

    def jobs_for(request: dict[str, Any]) -> list[Job]:
        return [partial(run, folder, next(numbers), store, request) for _ in range(request["n"])]

    serve_requests(jobs_for)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
