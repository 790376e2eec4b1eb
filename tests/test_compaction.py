"""Merging parts and erasing one person's rows, with readers and crashes in between."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from girl_features.errors import StoreLockedError
from girl_features.store.files import TEMPORARY_PREFIX, waiting_lock
from girl_features.store.parts import PartsStore
from girl_features.store.parts.compaction import compact, erase_rows, finish_compaction, is_unfinished
from girl_features.store.parts.part_files import LOCK, REPLACES_PREFIX, commit_part, is_intact, part_files, reading
from girl_features.store.parts.tombstones import Tombstones, lift_tombstone
from tests.fakes import feature_contract
from tests.store_rows import Row, cv_table, generated_table, jd_table

NOW = datetime(2024, 5, 1, tzinfo=UTC)
CONTRACT = feature_contract(dimension=2)
ENCODER = CONTRACT.encoder.fingerprint


def ids_table(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids), "n": list(range(len(ids)))})


def ids_in(folder: Path) -> list[str]:
    with reading(folder) as files:
        return [name for path in files for name in pq.read_table(path)["id"].to_pylist()]


def test_compact_keeps_every_row_once_and_in_order(tmp_path: Path) -> None:
    for i in range(10):
        commit_part(tmp_path, ids_table(f"a{i}", f"b{i}"))
    before = ids_in(tmp_path)
    assert compact(tmp_path) == 9
    [part] = part_files(tmp_path)
    assert is_intact(part)
    assert ids_in(tmp_path) == before
    assert compact(tmp_path) == 0
    assert not is_unfinished(tmp_path)


def test_compact_stops_at_the_size_it_was_given(tmp_path: Path) -> None:
    sizes = [commit_part(tmp_path, ids_table(f"a{i}")).stat().st_size for i in range(6)]
    assert compact(tmp_path, max_bytes=2 * max(sizes)) == 3
    assert sorted(ids_in(tmp_path)) == [f"a{i}" for i in range(6)]


def test_a_part_written_meanwhile_is_not_lost(tmp_path: Path) -> None:
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            name = f"w{len(written)}"
            commit_part(tmp_path, ids_table(name))
            written.append(name)

    commit_part(tmp_path, ids_table("first"))
    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(8):
        compact(tmp_path)
        seen = ids_in(tmp_path)
        assert len(seen) == len(set(seen))
    stop.set()
    thread.join()
    assert sorted(ids_in(tmp_path)) == sorted(["first", *written])


def test_parts_stay_while_they_are_read(tmp_path: Path) -> None:
    for i in range(3):
        commit_part(tmp_path, ids_table(f"a{i}"))
    with reading(tmp_path) as files:
        thread = threading.Thread(target=compact, args=(tmp_path,))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()  # it waits for us
        assert [pq.read_table(path)["id"][0].as_py() for path in files] == ["a0", "a1", "a2"]
    thread.join()
    assert len(part_files(tmp_path)) == 1


def test_two_compactions_do_not_meet(tmp_path: Path) -> None:
    commit_part(tmp_path, ids_table("a"))
    with waiting_lock(tmp_path / ".compaction.lock", exclusive=True), pytest.raises(StoreLockedError):
        compact(tmp_path)


def test_a_compaction_cut_short_is_finished_or_forgotten(tmp_path: Path) -> None:
    old = [commit_part(tmp_path, ids_table("a")), commit_part(tmp_path, ids_table("b"))]
    names = json.dumps([path.name for path in old])
    (tmp_path / f"{REPLACES_PREFIX}part-0-0-0.parquet").write_text(names)  # its part was never committed
    assert sorted(ids_in(tmp_path)) == ["a", "b"]
    merged = commit_part(tmp_path, ids_table("a", "b"))
    (tmp_path / f"{REPLACES_PREFIX}{merged.name}").write_text(names)
    assert sorted(ids_in(tmp_path)) == ["a", "b"]  # the old are there still, and do not count
    assert finish_compaction(tmp_path) == 2
    assert part_files(tmp_path) == [merged]


def test_erased_is_gone_from_every_part_and_stays_gone(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    store.save_contract(CONTRACT)
    gone, stays = Row("gone", NOW, NOW, [1.0, 2.0]), Row("stays", NOW, NOW, [2.0, 1.0])
    later = gone._replace(known_at=NOW + timedelta(days=1))
    store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [gone, stays]))
    store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [later]))
    store.write_part("jd_vectors", ENCODER, jd_table(CONTRACT, [gone]))  # a job of the same name is no person
    store.write_part("generated_jds", CONTRACT.fingerprint, generated_table(CONTRACT, [gone]))
    assert store.erase("gone") == 3
    assert store.erase("gone") == 0
    store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [gone, stays]))  # a job that was running
    files = [path for path in store.root.rglob("*") if path.is_file() and "jd_vectors" not in path.parts]
    assert not [path for path in files if b"gone" in path.read_bytes()]
    left = [pq.read_table(path)["job_seeker_id"].to_pylist() for path in store.part_paths("cv_vectors", ENCODER)]
    assert sorted(name for names in left for name in names) == ["stays", "stays"]
    assert len(store.part_paths("jd_vectors", ENCODER)) == 1
    assert lift_tombstone(store.root, "job_seeker_id", "gone")
    store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [gone]))
    assert Tombstones.of(store.view_dir("cv_vectors", ENCODER)).hashes == {}


def test_erasing_passes_over_a_damaged_part_and_deletes_it(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    commit_part(folder, ids_table("gone", "stays"))
    poor = commit_part(folder, ids_table("gone"))
    poor.write_bytes(poor.read_bytes()[:-9])
    assert erase_rows(tmp_path, [folder], "id", "gone") == 1
    assert ids_in(folder) == ["stays"]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"gone" in path.read_bytes()]


def test_erasing_deletes_what_a_killed_writer_left(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    store.save_contract(CONTRACT)
    path = store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [Row("gone", NOW, NOW, [1.0, 2.0])]))
    assert path is not None
    (path.parent / f"{TEMPORARY_PREFIX}of-a-killed-writer").write_bytes(path.read_bytes())
    store.erase("gone")
    assert not [path for path in store.root.rglob("*") if path.is_file() and b"gone" in path.read_bytes()]
    assert not list(store.root.rglob(f"{TEMPORARY_PREFIX}*"))


def test_erasing_waits_for_a_writer_that_has_not_seen_the_tombstone(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    with waiting_lock(folder / LOCK, exclusive=False):  # a writer between its check and its commit
        thread = threading.Thread(target=erase_rows, args=(tmp_path, [folder], "id", "gone"))
        thread.start()
        thread.join(0.2)
        commit_part(folder, ids_table("gone", "stays"))
    thread.join()
    assert ids_in(folder) == ["stays"]
