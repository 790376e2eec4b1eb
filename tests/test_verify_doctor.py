"""`girl verify` and `girl doctor`: faults are planted one at a time and must be named and, where it can be, mended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.errors import StoreError, StoreLockedError
from girl_features.init_repo import init_repo
from girl_features.lookup import FeatureClient
from girl_features.store.doctor import examine
from girl_features.store.erasing import erase
from girl_features.store.online.publishing import Ledger, publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import ViewNames, apply_repo, open_repo, registry_problem
from girl_features.store.verify import NOT_ONLINE, verify
from tests.fakes import feature_contract
from tests.feast_repos import OUR_ENGINE, OUR_OFFLINE, OUR_SQLITE, feature_view, open_store, row, write_parts
from tests.store_rows import Row, write_rows

DAY = datetime(2022, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
CONTRACT = feature_contract(dimension=2)
GENERATED = ViewNames.of(CONTRACT).generated
pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")


class Market(NamedTuple):
    repo: Path
    store: PartsStore

    def registry(self) -> Path:
        return self.repo / "data" / "registry.db"

    def online(self, name: str) -> float:
        return float(
            FeatureClient(self.repo, CONTRACT.fingerprint, deadline_ms=60_000).job_seekers([name]).vectors[0, 0]
        )


def new_market(folder: Path, ours: bool) -> Market:
    store = PartsStore(folder / ".girl" / "store")
    store.save_contract(CONTRACT)
    repo = folder
    init_repo(repo, store.root, "girl")
    path = repo / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["offline_store"] = {"type": OUR_OFFLINE if ours else "duckdb"}
    settings["online_store"] = {"type": OUR_SQLITE if ours else "sqlite", "path": "data/online.db"}
    if ours:
        settings["batch_engine"] = {"type": OUR_ENGINE}
    path.write_text(yaml.safe_dump(settings))
    apply_repo(repo)
    rows = [Row(f"s{i}", DAY, DAY, [i + 1.0, 1.0]) for i in range(30)]
    write_rows(store, CONTRACT, rows, rows, rows)
    publish(repo, store, CONTRACT)
    return Market(repo, store)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("verify")
    return {ours: new_market(folder / str(ours), ours).repo for ours in (True, False)}


@pytest.fixture(params=[True, False], ids=["ours", "stock"])
def market(request: pytest.FixtureRequest, made: dict[bool, Path]) -> Market:
    """A market put back to what it was when it was made."""
    repo, kept = made[request.param], made[request.param].with_name(f"{request.param}-kept")
    if not kept.exists():
        shutil.copytree(repo, kept)
    shutil.rmtree(repo)
    shutil.copytree(kept, repo)
    return Market(repo, PartsStore(repo / ".girl" / "store"))


def test_what_was_published_agrees(market: Market) -> None:
    report = verify(market.repo)
    assert report.agrees
    assert report.verdict == "OK: offline = online in 120 rows of 4 views"
    assert verify(market.repo, sample=7).verdict == "OK: offline = online in 28 sampled rows of 4 views"


def test_rows_that_were_not_published_are_found(market: Market) -> None:
    write_rows(market.store, CONTRACT, generated=[Row("new", DAY, DAY, [1.0, 1.0])])
    write_rows(market.store, CONTRACT, generated=[Row("s3", DAY + timedelta(days=1), DAY, [9.0, 9.0])])
    write_rows(market.store, CONTRACT, cvs=[Row("s4", DAY, DAY + timedelta(days=1), [9.0, 9.0])])
    found = {view.view: view for view in verify(market.repo).views}
    assert (found[GENERATED].n_missing, found[GENERATED].n_stale) == (1, 1)
    assert sorted(found[GENERATED].examples) == ["'new'", "'s3'"]
    assert found[ViewNames.of(CONTRACT).cv].n_different == 1
    assert "1 different" in verify(market.repo).verdict
    publish(market.repo, market.store, CONTRACT)
    assert verify(market.repo).agrees


def test_nobody_publishes_while_the_store_is_compared(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("girl_features.store.online.publishing.LOCK_WAIT_S", 0.0)
    with Ledger.of(market.store.root, market.repo, "girl"), pytest.raises(StoreLockedError):
        verify(market.repo, market.store)
    assert verify(market.repo, market.store).agrees


def test_a_row_on_its_way_hides_no_other_fault(market: Market) -> None:
    write_rows(market.store, CONTRACT, generated=[Row("old", DAY, DAY, [1.0, 1.0])])
    for part in market.store.part_paths("generated_jds", CONTRACT.fingerprint):
        os.utime(part, (0, 0))
    write_rows(market.store, CONTRACT, generated=[Row("new", DAY, DAY, [1.0, 1.0])])
    found = {view.view: view for view in verify(market.repo, market.store).views}[GENERATED]
    assert (found.n_missing, found.n_on_their_way, found.examples) == (1, 1, ["'old'"])


def test_where_there_is_nothing_to_compare_that_is_said(market: Market, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["verify", "--config", str(market.repo / "girl.yaml"), "--set", "feast.online=false"])
    assert (done.exit_code, done.stdout) == (0, f"{NOT_ONLINE}\n")
    init_repo(tmp_path / "empty", tmp_path / "empty" / ".girl" / "store", "girl")
    done = run(app, ["verify", "--config", str(tmp_path / "empty" / "girl.yaml")])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nothing to compare yet")


def test_rows_that_are_only_online_are_found(market: Market) -> None:
    [part] = market.store.part_paths("cv_vectors", CONTRACT.encoder.fingerprint)
    part.unlink()
    report = verify(market.repo)
    if "Packed" in type(open_repo(market.repo)._get_provider().online_store).__name__:
        assert {view.view: view.n_extra for view in report.views}[ViewNames.of(CONTRACT).cv] == 30
        assert report.verdict.startswith("NOT OK")


def test_the_commands_speak_to_machines_and_exit_with_the_verdict(market: Market) -> None:
    run = CliRunner().invoke
    done = run(app, ["verify", "--config", str(market.repo / "girl.yaml"), "--json", "-"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["agrees"] is True
    write_rows(market.store, CONTRACT, generated=[Row("new", DAY, DAY, [1.0, 1.0])])
    done = run(app, ["verify", "--config", str(market.repo / "girl.yaml")])
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert "of 4 views, 2 of them just being published" in done.stdout  # the vector and the text
    for part in market.store.part_paths("generated_jds", CONTRACT.fingerprint):
        os.utime(part, (0, 0))  # long ago
    done = run(app, ["verify", "--config", str(market.repo / "girl.yaml")])
    assert (done.exit_code, done.stdout.count("\n")) == (1, 1)
    assert "2 missing (first: 'new'" in done.stdout  # the vector and the text
    done = run(app, ["doctor", "--config", str(market.repo / "girl.yaml")])
    assert (done.exit_code, done.stdout) == (0, "nothing is wrong\n")
    write_rows(market.store, CONTRACT, generated=[Row("new2", DAY, DAY, [1.0, 1.0])])
    done = run(app, ["compact", "--config", str(market.repo / "girl.yaml"), "--json", "-"])
    assert json.loads(done.stdout) == {"files_fewer": 2}
    publish(market.repo, market.store, CONTRACT)
    assert verify(market.repo).agrees


@pytest.mark.parametrize("cut", [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: d[:-1], lambda d: b"\xff" * 50])
def test_a_cut_registry_is_mended_from_its_backup(market: Market, cut: Callable[[bytes], bytes]) -> None:
    whole = market.registry().read_bytes()
    market.registry().write_bytes(cut(whole))
    [finding] = examine(market.repo, market.store)
    assert finding.path == str(market.registry())
    assert "registry" in finding.problem
    assert [found.mended for found in examine(market.repo, market.store, mend_all=True)] == [True]
    assert examine(market.repo, market.store) == []
    assert market.online("s3") == 4.0


def test_a_registry_without_a_backup_is_applied_again(market: Market) -> None:
    market.registry().with_name("registry.db.backup").unlink()
    market.registry().write_bytes(b"")
    examine(market.repo, market.store, mend_all=True)
    assert market.online("s3") == 4.0


def test_the_registry_that_is_cut_between_two_objects(market: Market) -> None:
    from feast.protos.feast.core.Registry_pb2 import Registry

    whole = market.registry().read_bytes()
    lengths = [n for n in range(1, len(whole)) if _parses(Registry, whole[:n])]
    market.registry().write_bytes(whole[: lengths[len(lengths) // 2]])
    [finding] = examine(market.repo, market.store)
    assert "of its backup" in finding.problem


def test_a_registry_cut_at_any_byte_is_refused(market: Market) -> None:
    """Feast itself takes most of them for an empty store."""
    whole = market.registry().read_bytes()
    assert registry_problem(market.registry()) is None
    for n in range(len(whole)):
        market.registry().write_bytes(whole[:n])
        assert registry_problem(market.registry()), f"{n} of {len(whole)} bytes"
    for n in (0, len(whole) // 2):
        market.registry().write_bytes(whole[:n])
        for use in (verify, apply_repo):
            with pytest.raises(StoreError, match="girl doctor --mend"):
                use(market.repo)


def _parses(message: type, data: bytes) -> bool:
    try:
        message().ParseFromString(data)
    except Exception:
        return False
    return True


def test_files_of_dead_writers(market: Market) -> None:
    stale, fresh = market.store.root / "cv_vectors" / ".tmp-old", market.store.root / ".tmp-new"
    for path in (stale, fresh):
        path.write_bytes(b"half a part")
    os.utime(stale, (0, 0))
    assert [finding.path for finding in examine(None, market.store)] == [str(stale)]
    assert all(finding.mended for finding in examine(None, market.store, mend_all=True))
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_the_lock_of_a_dead_run(market: Market) -> None:
    lock = market.store.root / "published" / "some.lock"
    code = (
        "import sys, os, signal; from pathlib import Path; from girl_features.store.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(lock)], check=False)
    [finding] = examine(None, market.store)
    assert "died while it held this lock" in finding.problem
    examine(None, market.store, mend_all=True)
    assert examine(None, market.store) == []


def test_a_damaged_part_is_set_aside_and_can_be_made_again(market: Market) -> None:
    [part] = market.store.part_paths("cv_vectors", CONTRACT.encoder.fingerprint)
    data = bytearray(part.read_bytes())
    data[40] ^= 255
    part.write_bytes(data)
    [finding] = examine(None, market.store)
    assert (finding.path, finding.mended) == (str(part), False)
    examine(None, market.store, mend_all=True)
    assert market.store.part_paths("cv_vectors", CONTRACT.encoder.fingerprint) == []
    [after] = examine(None, market.store)
    assert after.mended
    assert ".quarantine" in after.path


def test_an_unreadable_ledger_and_a_store_that_is_gone(market: Market) -> None:
    [ledger] = (market.store.root / "published").glob("*.json")
    ledger.write_text("{")
    assert [finding.path for finding in examine(None, market.store)] == [str(ledger)]
    examine(None, market.store, mend_all=True)
    assert publish(market.repo, market.store, CONTRACT).total == 120
    [finding] = examine(None, PartsStore(market.repo / "nowhere"))
    assert "missing" in finding.problem


def test_an_online_file_that_is_no_database(market: Market) -> None:
    for name in ("online.db", "online.db-wal", "online.db-shm"):
        (market.repo / "data" / name).unlink(missing_ok=True)
    (market.repo / "data" / "online.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    [finding] = examine(market.repo, market.store)
    assert finding.problem.startswith("SQLite says")


def test_an_erased_id_is_in_no_byte_that_is_left(market: Market) -> None:
    if "Packed" not in type(open_repo(market.repo)._get_provider().online_store).__name__:
        return
    rows = [Row(f"seeker-{i * 7919 % 2000:04d}", DAY, DAY, [i + 1.0, 1.0]) for i in range(2000)]
    again = [row._replace(known_at=DAY + timedelta(days=1)) for row in rows[::3]]
    for batch in (rows, again):
        write_rows(market.store, CONTRACT, batch, (), batch)
        publish(market.repo, market.store, CONTRACT)
    assert market.online("seeker-0777") != 0.0
    assert erase(market.repo, market.store, "seeker-0777").n_online == 3
    left = [path for path in market.repo.rglob("*") if path.is_file() and b"seeker-0777" in path.read_bytes()]
    assert left == []
    assert market.online("seeker-0778") != 0.0


def test_erasing_forgets_offline_and_online(market: Market) -> None:
    if "Packed" not in type(open_repo(market.repo)._get_provider().online_store).__name__:
        with pytest.raises(StoreError, match="cannot delete one entity"):
            erase(market.repo, market.store, "s3")
        return
    assert erase(market.repo, market.store, "s3") == (2, 3)  # a CV row, a generated one; three views of them online
    assert market.online("s3") == 0.0
    assert market.online("s4") == 5.0
    write_rows(market.store, CONTRACT, generated=[Row("s3", DAY + timedelta(days=3), DAY, [1.0, 1.0])])
    publish(market.repo, market.store, CONTRACT)
    assert market.online("s3") == 0.0
    assert verify(market.repo).agrees


def test_a_part_of_a_backup_brings_nobody_back(market: Market) -> None:
    if "Packed" not in type(open_repo(market.repo)._get_provider().online_store).__name__:
        return
    kept = {path: path.read_bytes() for path in market.store.root.rglob("part-*.parquet")}
    write_rows(market.store, CONTRACT, generated=[Row("s5", DAY + timedelta(days=1), DAY, [7.0, 1.0])])
    erase(market.repo, market.store, "s3")
    publish(market.repo, market.store, CONTRACT)
    for path, data in kept.items():
        path.write_bytes(data)
    publish(market.repo, market.store, CONTRACT)
    assert publish(market.repo, market.store, CONTRACT, republish=True).n_rows[GENERATED] == 29
    assert (market.online("s3"), market.online("s4"), market.online("s5")) == (0.0, 5.0, 7.0)
    relation = market.store.scan("generated_jds", CONTRACT.fingerprint)
    assert duckdb.sql(f"SELECT count(*) FROM {relation} WHERE job_seeker_id = 's3'").fetchall() == [(0,)]
    assert verify(market.repo).agrees


def test_publishing_again_sends_nothing_though_a_part_begins_with_somebody_erased(market: Market) -> None:
    if "Packed" not in type(open_repo(market.repo)._get_provider().online_store).__name__:
        return
    kept = {path: path.read_bytes() for path in market.store.root.rglob("part-*.parquet")}
    erase(market.repo, market.store, "s0")
    for path, data in kept.items():
        path.write_bytes(data)
    publish(market.repo, market.store, CONTRACT)
    assert publish(market.repo, market.store, CONTRACT).total == 0


def test_a_source_that_cannot_be_read_is_named_with_the_folder_to_run_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "repo"
    write_parts(repo / "parts", [row("a", 0, 0, 7)])
    monkeypatch.chdir(repo)
    store = open_store(repo, [feature_view(Path("parts"))])
    settings = {"project": "shop", "provider": "local", "offline_store": {"type": "duckdb"}}
    settings |= {"registry": str(repo / "registry.db"), "online_store": {"type": "sqlite", "path": "online.db"}}
    (repo / "feature_store.yaml").write_text(json.dumps(settings | {"entity_key_serialization_version": 3}))
    store.materialize(datetime(2024, 4, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
    assert verify(repo).agrees
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"source 'facts_source' of the view 'facts' cannot be read.*run it in .*repo"):
        verify(repo)
