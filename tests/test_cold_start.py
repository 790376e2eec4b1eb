"""Seekers the store has nothing for: the tiers below its own, the bundle they come from, and that none is an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from girl_features.errors import CheckpointError, ContractMismatchError, DataError, ShapeError
from girl_features.input.text_cleaning import SQL_BLANK, SQL_CLEAN_CHARACTERS, clean_cv, cleaning_sql
from girl_features.lookup import AsyncFeatureClient, FeatureClient, SeekerVectors
from girl_features.lookup.bundle import read_bundle, write_bundle
from girl_features.schema import Encoded, Tier
from girl_features.vectors.similarity import unit_rows
from tests.fakes import HashingEncoder, feature_contract
from tests.input_tables import day
from tests.served_market import CONTRACT, UNIT_VECTORS, ServedMarket, bundle, served_market
from tests.store_rows import Row, write_rows

D = 8
E = UNIT_VECTORS
ALL_BUT_STUDENT = [tier for tier in Tier if tier != Tier.STUDENT]


class SlowEncoder(HashingEncoder):
    """Takes a while for each text."""

    seconds = 0.0
    n_calls = 0

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.n_calls += 1
        time.sleep(self.seconds)
        return super().encode(texts)


class FailingEncoder(HashingEncoder):
    def encode(self, texts: Sequence[str]) -> Encoded:
        raise RuntimeError("the engine has crashed")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> ServedMarket:
    folder = tmp_path_factory.mktemp("cold")
    market = served_market(folder)
    write_rows(market.store, CONTRACT, [Row("known", day(1), day(1), E[1].tolist())])
    write_rows(market.store, CONTRACT, [Row("made", day(1), day(1), E[2].tolist())])
    write_rows(market.store, CONTRACT, generated=[Row("made", day(1), day(1), E[4].tolist())])
    market.publish()
    write_bundle(folder / "bundle", bundle(), {})
    return market


@pytest.fixture(scope="module")
def folder(market: ServedMarket) -> Path:
    return market.config.workspace.parent / "bundle"


@pytest.fixture(scope="module")
def client(market: ServedMarket, folder: Path) -> Iterator[FeatureClient]:
    with market.client(bundle=folder, encoder=HashingEncoder()) as client:
        yield client


def test_each_tier_answers_where_the_one_before_it_cannot(market: ServedMarket, folder: Path) -> None:
    asked = (["made", "known", "nobody", "new"], [None, None, None, "welder"])
    welder = HashingEncoder().encode(["welder"]).vectors[0]
    with market.client(bundle=folder, encoder=HashingEncoder()) as client:
        found = client.job_seekers(*asked)
    assert [Tier(tier).name for tier in found.tiers] == ["GENERATED", "STUDENT", "PRIOR", "STUDENT"]
    assert found.vectors[0].tolist() == E[4].tolist()
    assert found.vectors[1] == pytest.approx(np.sqrt(2) * (E[0] + E[1])), "(e0 + e1), scaled to length 2"
    assert found.vectors[2].tolist() == (0.5 * E[7]).tolist()
    assert found.vectors[3] == pytest.approx(2 * unit_rows((welder + E[0])[None])[0])
    assert found.has_generated_jd.tolist() == [True, True, False, True]
    assert found.has_cv.tolist() == [True, True, False, True]
    assert found.cv_vectors[2].tolist() == (0.25 * E[6]).tolist()
    assert found.cv_vectors[3] == pytest.approx(welder)
    assert np.isnan(found.age).tolist() == [False, True, True, True]

    with market.client(bundle=folder, tiers=ALL_BUT_STUDENT, n_neighbours=1) as client:
        found = client.job_seekers(*asked)  # without an encoder the text is of no use
    assert [Tier(tier).name for tier in found.tiers] == ["GENERATED", "NEIGHBOURS", "PRIOR", "PRIOR"]
    assert found.vectors[1].tolist() == E[4].tolist()

    with market.client(tiers=[Tier.STALE]) as client:
        found = client.job_seekers(*asked)
    assert set(found.tiers.tolist()) == {Tier.PRIOR}
    assert not found.vectors.any()


@pytest.mark.parametrize("strip_html", [True, False])
def test_a_cv_that_is_html_is_read_as_the_table_reads_it(market: ServedMarket, folder: Path, strip_html: bool) -> None:
    with market.client(bundle=folder, encoder=HashingEncoder(), strip_html=strip_html) as client:
        found = client.job_seekers(["n1", "n2"], ["<p>welder</p>", "welder"])
    assert (found.cv_vectors[0].tolist() == found.cv_vectors[1].tolist()) == strip_html


def test_a_cv_that_came_too_late_is_there_for_the_next_request(market: ServedMarket, folder: Path) -> None:
    encoder = SlowEncoder()
    with market.client(bundle=folder, encoder=encoder) as client:
        encoder.seconds = 0.5
        texts: list[str | None] = ["a welder of ships", "a second welder"]
        assert client.job_seekers(["n1", "n2"], texts, deadline_ms=100).tiers.tolist() == [Tier.PRIOR] * 2
        assert client.job_seekers(["n1"], texts[:1]).tiers.tolist() == [Tier.STUDENT]
        assert encoder.n_calls == 1, "encoded once, though nobody waited; what had not begun was left"


def test_an_engine_that_crashes_costs_a_tier_not_the_request(market: ServedMarket, folder: Path) -> None:
    with market.client(bundle=folder, encoder=FailingEncoder()) as client:
        found = client.job_seekers(["new", "known"], ["welder", "welder"])
    assert found.tiers.tolist() == [Tier.PRIOR, Tier.STUDENT], "the store's CV vector will do"


def test_no_time_at_all_is_an_answer(client: FeatureClient) -> None:
    found = client.job_seekers(["made", "new"], [None, "welder"], deadline_ms=0)
    assert found.vectors.shape == (2, D)
    assert found.tiers[1] == Tier.PRIOR


hostile = st.text(st.characters(codec=None), max_size=12)
texts = st.one_of(st.none(), hostile, st.just(" \n\t"), st.sampled_from(["welder", "made"]))
rows = st.lists(st.tuples(st.one_of(hostile, st.sampled_from(["made", "known"])), texts), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, with_cvs=st.booleans(), repeat=st.integers(1, 2))
def test_any_seekers_with_any_cvs_get_an_answer(
    client: FeatureClient, rows: list[tuple[str, str | None]], with_cvs: bool, repeat: int
) -> None:
    rows = rows * repeat
    found = client.job_seekers([name for name, _ in rows], [cv for _, cv in rows] if with_cvs else None)
    assert found.vectors.shape == found.cv_vectors.shape == (len(rows), D)
    assert np.isfinite(found.vectors).all()
    for i, (name, cv) in enumerate(rows):
        text = clean_cv(cv) if cv is not None and with_cvs else None
        stored = {"made": {Tier.GENERATED, Tier.STALE}, "known": {Tier.STUDENT}}.get(name, {Tier.PRIOR})
        if text == "":
            assert found.tiers[i] == Tier.PRIOR
        elif text is not None:
            assert found.tiers[i] in (stored - {Tier.PRIOR, Tier.GENERATED} or {Tier.STUDENT})
        else:
            assert found.tiers[i] in stored
    one_by_one = [client.job_seekers([name], [cv if with_cvs else None]).tiers[0] for name, cv in rows]
    assert found.tiers.tolist() == one_by_one


def test_mistakes_of_the_caller_are_named(client: FeatureClient) -> None:
    with pytest.raises(ShapeError, match="2 ids need as many CVs, found 1"):
        client.job_seekers(["a", "b"], ["x"])
    with pytest.raises(DataError, match="CVs are strings or None, found a int"):
        client.job_seekers(["a"], [7])  # type: ignore[list-item]
    assert client.job_seekers([np.str_("made")]).tiers.tolist() == [Tier.GENERATED], "numpy's strings are strings"


def test_the_asyncio_twin_gives_the_same_answers(client: FeatureClient) -> None:
    async def ask() -> list[SeekerVectors]:
        twin = AsyncFeatureClient(client)
        answers = await asyncio.gather(*(twin.job_seekers(["made", "known"]) for _ in range(20)))
        assert (await twin.jobs(["nothing"])).has_jd.tolist() == [False]
        twin.close()
        return list(answers)

    for found in asyncio.run(ask()):
        assert found.tiers.tolist() == [Tier.GENERATED, Tier.STUDENT]


def test_a_bundle_comes_back_and_is_replaced_whole(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", bundle(), {"measures": {"cosine": 0.5}})
    found = read_bundle(tmp_path / "b", CONTRACT.fingerprint)
    assert found.student is not None
    assert found.student(E[:1]) == pytest.approx(2 * E[:1])
    write_bundle(tmp_path / "b", bundle()._replace(student=None, neighbours_cv=None), {})
    found = read_bundle(tmp_path / "b", CONTRACT.fingerprint)
    assert (found.student, found.neighbours_cv) == (None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    write_bundle(tmp_path / "b", bundle()._replace(neighbours_seeker=np.array([0, 1, 0])), {})
    found = read_bundle(tmp_path / "b", CONTRACT.fingerprint)
    assert found.neighbours_seeker is not None and found.neighbours_seeker.tolist() == [0, 1, 0]
    write_bundle(tmp_path / "b", bundle()._replace(neighbours_seeker=np.array([0, 1])), {})
    with pytest.raises(CheckpointError, match="wanted an int32 for each CV"):
        read_bundle(tmp_path / "b", CONTRACT.fingerprint)


def test_a_bundle_of_another_contract_is_refused(market: ServedMarket, tmp_path: Path) -> None:
    other = feature_contract(seed=9)
    write_bundle(tmp_path / "b", bundle(other), {})
    with pytest.raises(ContractMismatchError, match=other.fingerprint):
        market.client(bundle=tmp_path / "b")
    with pytest.raises(ContractMismatchError):
        market.client(bundle=write_bundle(tmp_path / "own", bundle(), {}), encoder=HashingEncoder(max_words=3))


def test_a_bundle_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", bundle(), {})
    for path in sorted((tmp_path / "b").iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), 97):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            try:
                found = read_bundle(tmp_path / "b", CONTRACT.fingerprint)
            except (CheckpointError, ContractMismatchError):
                continue
            assert path.name == "bundle.json", f"byte {place} of {path.name}"
            assert found.contract == CONTRACT, "a date or a note may differ, nothing that is used"
        path.unlink()
        with pytest.raises(CheckpointError, match="girl train student"):
            read_bundle(tmp_path / "b", CONTRACT.fingerprint)
        path.write_bytes(whole)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_of_requests_are_cleaned_as_those_of_the_tables(text: str) -> None:
    query = f"SELECT CASE WHEN regexp_full_match(clean, '{SQL_BLANK}') THEN '' ELSE clean END FROM (SELECT "
    query += cleaning_sql("$text", f"regexp_matches($text, '[^{SQL_CLEAN_CHARACTERS}]')", "true") + " AS clean)"
    row = duckdb.execute(query, {"text": text}).fetchone()
    assert row is not None
    assert clean_cv(text) == row[0]
