"""Publishing to Feast's online store and looking vectors up there."""

from __future__ import annotations

import itertools
import socket
import sqlite3
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from girl_features.contract import FeatureContract
from girl_features.errors import DataError, StoreError, StoreLockedError, UnknownContractError
from girl_features.init_repo import write_repo
from girl_features.lookup import FeatureClient
from girl_features.schema import Tier
from girl_features.store.online.publishing import Ledger, publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import ViewNames, apply_repo, open_repo
from tests.fakes import feature_contract
from tests.feast_repos import OUR_REDIS, OUR_SQLITE
from tests.served_market import served_market
from tests.store_rows import Row, write_rows

DAY = datetime(2022, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
CONTRACT = feature_contract(dimension=2)
RIVAL = feature_contract(dimension=2, seed=9)
VIEWS = ViewNames.of(CONTRACT)


class Market(NamedTuple):
    repo: Path
    store: PartsStore

    def publish(self, batch_size: int = 10_000, republish: bool = False) -> dict[str, int]:
        return publish(self.repo, self.store, CONTRACT, batch_size=batch_size, republish=republish).n_rows

    def generated(self, ids: list[str]) -> list[float]:
        """First entry of each seeker's online generated-JD vector, 0 for a miss."""
        return open_client(self).job_seekers(ids).vectors[:, 0].tolist()

    def write(self, *rows: Row) -> None:
        write_rows(self.store, CONTRACT, generated=rows)

    def ledger_file(self) -> Path:
        [path] = (self.store.root / "published").glob("*.json")
        return path


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    workspace = tmp_path_factory.mktemp("lookup")
    store = PartsStore(workspace / "store")
    store.save_contract(CONTRACT)
    store.save_contract(RIVAL)
    write_repo(workspace / "repo", store.root, "girl")
    apply_repo(workspace / "repo")
    return Market(workspace / "repo", store)


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    """Ids that no other test has used: the tests share one online store."""
    return map("seeker{}".format, itertools.count())


def open_client(
    market: Market, contract: FeatureContract = CONTRACT, tiers: Collection[Tier] = tuple(Tier)
) -> FeatureClient:
    """A client that waits as long as a busy machine takes."""
    return FeatureClient(market.repo, contract.fingerprint, tiers=tiers, deadline_ms=60_000)


def row(name: str, value: float, day: int = 0, created: int = 0) -> Row:
    return Row(name, DAY + timedelta(days=day), DAY + timedelta(days=created), [value, 1.0])


def test_what_is_published_can_be_looked_up(market: Market, names: Iterator[str]) -> None:
    seeker, job = next(names), next(names)
    write_rows(market.store, CONTRACT, [row(seeker, 1.0, day=1)], [row(job, 2.0)], [row(seeker, 3.0, day=1)])
    market.publish()
    client = open_client(market)
    found = client.job_seekers([seeker])
    assert (found.cv_vectors.tolist(), found.vectors.tolist()) == ([[1.0, 1.0]], [[3.0, 1.0]])
    assert (found.has_cv.tolist(), found.has_generated_jd.tolist()) == ([True], [True])
    assert (found.tiers.tolist(), found.is_stale.tolist(), found.problem) == ([Tier.GENERATED], [False], None)
    made = (DAY + timedelta(days=1)).timestamp()
    assert found.age == pytest.approx([datetime.now(UTC).timestamp() - made], abs=60)
    jobs = client.jobs([job, seeker])
    assert jobs.vectors.tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert jobs.has_jd.tolist() == [True, False]
    texts = open_repo(market.repo).get_online_features([f"{VIEWS.texts}:generated_jds"], [{"job_seeker_id": seeker}])
    assert texts.to_dict()["generated_jds"] == [[f"a job for {seeker}"]]


def test_a_newer_cv_without_a_generated_jd_makes_the_old_one_stale(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    write_rows(market.store, CONTRACT, [row(seeker, 1.0), row(seeker, 2.0, day=1)], [], [row(seeker, 3.0)])
    market.publish()
    found = open_client(market).job_seekers([seeker])
    assert (found.tiers.tolist(), found.is_stale.tolist(), found.has_cv.tolist()) == ([Tier.STALE], [True], [True])
    assert found.vectors.tolist() == [[3.0, 1.0]]
    without = open_client(market, tiers=[Tier.GENERATED]).job_seekers([seeker])
    assert (without.tiers.tolist(), without.has_generated_jd.tolist()) == ([Tier.PRIOR], [False])
    assert without.vectors.tolist() == [[0.0, 0.0]]
    assert np.isnan(without.age).all()


def test_order_is_kept_ids_may_repeat_and_misses_are_answers(market: Market, names: Iterator[str]) -> None:
    known = {next(names): float(i + 1) for i in range(40)}
    market.write(*(row(name, value) for name, value in known.items()))
    market.publish()
    rng = np.random.default_rng(3)
    odd = ["nobody", "", "\ud800", "a\0b", "'; DROP TABLE x --", "x" * 10_000, "\u202eidder"]
    asked = rng.choice([*known, *odd], 200).tolist() + odd
    found = open_client(market).job_seekers(asked)
    assert found.vectors.dtype == np.float32
    assert found.vectors[:, 0].tolist() == [known.get(name, 0.0) for name in asked]
    assert found.has_generated_jd.tolist() == [name in known for name in asked]
    assert np.isnan(found.age).tolist() == [name not in known for name in asked]
    assert not found.has_cv.any()  # these seekers have no CV vector


def test_more_ids_than_one_read_takes(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    market.write(row(seeker, 5.0))
    market.publish()
    asked = [f"nobody{i}" for i in range(2500)] + [seeker]
    assert market.generated(asked) == [0.0] * 2500 + [5.0]


def test_no_ids_give_no_rows(market: Market) -> None:
    client = open_client(market)
    assert client.job_seekers([]).vectors.shape == (0, 2)
    assert client.jobs([]).vectors.shape == (0, 2)


def test_ids_of_another_type_are_refused(market: Market) -> None:
    client = open_client(market)
    with pytest.raises(DataError, match="found 7 of type int"):
        client.job_seekers(["a", 7])  # type: ignore[list-item]
    with pytest.raises(DataError, match="a list of ids"):
        client.jobs("abc")


def test_publishing_twice_sends_nothing(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    market.write(row(seeker, 1.0))
    assert market.publish()[VIEWS.generated] == 1
    assert set(market.publish().values()) == {0}
    market.write(row(next(names), 1.0))
    assert market.publish()[VIEWS.generated] == 1


def test_an_older_row_that_arrives_later_does_not_win(market: Market, names: Iterator[str]) -> None:
    by_event, by_created = next(names), next(names)
    market.write(row(by_event, 2.0, day=5), row(by_created, 2.0, created=5))
    market.publish()
    market.write(row(by_event, 1.0, day=4, created=9), row(by_created, 1.0, created=4))
    assert market.publish()[VIEWS.generated] == 2
    assert market.generated([by_event, by_created]) == [2.0, 2.0]


version = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))  # which id, event day, created day


@settings(max_examples=12, deadline=None, phases=[Phase.reuse, Phase.generate])  # each example takes Feast a while
@given(
    rows=st.lists(version, min_size=1, max_size=8, unique=True),
    part_of=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    batch_size=st.sampled_from([1, 2, 10_000]),
)
def test_online_holds_the_newest_row_after_every_part(
    market: Market, names: Iterator[str], rows: list[tuple[int, int, int]], part_of: list[int], batch_size: int
) -> None:
    ids = [next(names) for _ in range(3)]
    newest: dict[str, tuple[int, int, float]] = {}
    for part in range(3):
        own = [(i, rows[i]) for i in range(len(rows)) if part_of[i] == part]
        market.write(*(row(ids[who], i + 1.0, day, created) for i, (who, day, created) in own))
        for i, (who, day, created) in own:
            newest[ids[who]] = max(newest.get(ids[who], (-1, -1, 0.0)), (day, created, i + 1.0))
        market.publish(batch_size=batch_size)
        assert market.generated(ids) == [newest.get(name, (0, 0, 0.0))[2] for name in ids]


def test_a_crash_before_the_ledger_is_written_costs_only_work(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    market.write(row(seeker, 1.0))
    market.publish()
    market.ledger_file().unlink()
    n_rows = market.publish()[VIEWS.generated]
    assert n_rows >= 1
    assert market.generated([seeker]) == [1.0]
    assert set(market.publish().values()) == {0}
    assert market.publish(republish=True)[VIEWS.generated] == n_rows


def test_a_damaged_ledger_says_what_to_do(market: Market, names: Iterator[str]) -> None:
    market.write(row(next(names), 1.0))
    market.publish()
    path = market.ledger_file()
    path.write_text(path.read_text()[:30])
    with pytest.raises(StoreError, match="delete it and run the same command again"):
        market.publish()
    path.unlink()
    market.publish()


def test_an_emptied_online_store_is_noticed_and_filled_again(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    market.write(row(seeker, 4.0))
    market.publish()
    with sqlite3.connect(market.repo / "data" / "online.db") as connection:
        connection.execute(f"DELETE FROM packed_girl_{VIEWS.generated}")
    connection.close()
    assert market.generated([seeker]) == [0.0]
    assert market.publish()[VIEWS.generated] >= 1
    assert market.generated([seeker]) == [4.0]


@pytest.mark.parametrize("kind", [OUR_REDIS, "redis"])
def test_a_redis_that_is_down_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        down = served_market(tmp_path, online={"type": kind, "connection_string": address}, contract=CONTRACT)
        write_rows(down.store, CONTRACT, [row("s1", 1.0)])
        with pytest.raises(StoreError, match=r"does not answer: .*see that the server"):
            publish(down.config.feast_repo, down.store, CONTRACT)


def test_one_publisher_at_a_time(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("girl_features.store.online.publishing.LOCK_WAIT_S", 0.1)
    with (
        Ledger.of(market.store.root, market.repo, "girl"),
        pytest.raises(StoreLockedError, match="is being written by process"),
    ):
        market.publish()


def test_feast_itself_refuses_a_wrong_dimension(market: Market) -> None:
    online = {
        "job_seeker_id": ["z"],
        "event_timestamp": [DAY],
        "created_timestamp": [DAY],
        "generated_jd_vector": [[1.0, 2.0, 3.0]],
        "generated_jd_known_at": [DAY],
        "n_generated": [1],
    }
    with pytest.raises(ValueError, match="length 3 does not match expected 2"):
        open_repo(market.repo).write_to_online_store(VIEWS.generated, inputs=online)


def test_two_contracts_never_mix(market: Market, names: Iterator[str]) -> None:
    seeker = next(names)
    market.write(row(seeker, 1.0))
    write_rows(market.store, RIVAL, generated=[row(seeker, 2.0, day=9)])
    market.publish()
    publish(market.repo, market.store, RIVAL)
    assert market.generated([seeker]) == [1.0]
    assert open_client(market, RIVAL).job_seekers([seeker]).vectors[0, 0] == 2.0


def test_a_contract_the_registry_does_not_know(market: Market) -> None:
    unknown = feature_contract(dimension=2, seed=77)
    with pytest.raises(UnknownContractError, match=CONTRACT.fingerprint):
        FeatureClient(market.repo, unknown.fingerprint)
    with pytest.raises(UnknownContractError, match=CONTRACT.fingerprint):
        publish(market.repo, market.store, unknown)


@pytest.mark.parametrize("kind", [OUR_SQLITE, "sqlite"])
def test_a_row_past_its_time_to_live_is_not_used_and_says_so(tmp_path: Path, kind: str) -> None:
    online = {"type": kind, "path": "data/some.db"}
    served = served_market(tmp_path, online=online)
    definitions = served.config.feast_repo / "girl_definitions.py"
    definitions.write_text(
        definitions.read_text()
        + "\nfrom datetime import timedelta\nfor one in list(globals().values()):\n"
        + "    if getattr(one, 'name', '').startswith('generated_jd_vectors'):\n        one.ttl = timedelta(days=30)\n"
    )
    apply_repo(served.config.feast_repo)
    now = datetime.now(UTC)
    rows = [
        Row("fresh", now - timedelta(days=29), now, [1.0] * 8),
        Row("old", now - timedelta(days=31), now, [1.0] * 8),
    ]
    write_rows(served.store, served.contract, generated=rows)
    served.publish()
    with served.client(queue=None) as client:
        found = client.job_seekers(["fresh", "old", "nobody"])
    assert found.tiers.tolist() == [Tier.GENERATED, Tier.PRIOR, Tier.PRIOR]
    assert found.is_expired.tolist() == [False, True, False]
    assert found.age[0] == pytest.approx(29 * 86_400, abs=3600)
