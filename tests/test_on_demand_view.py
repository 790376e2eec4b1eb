"""The on-demand view: plain Feast, in process and by its feature server, answers with the lower tiers too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from feast.feature_server import get_app

from girl_features.contract import text_hash
from girl_features.errors import UnknownContractError
from girl_features.init_repo import DEFINITIONS, write_repo
from girl_features.integrations.on_demand_view import answer, cold_start_view
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.vector_map import VectorMap
from girl_features.schema import Tier
from girl_features.store.feast_views import girl_feature_views
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo, open_repo
from tests.fakes import feature_contract
from tests.http_server import Caller, serving
from tests.store_rows import Row, write_rows

DAY = datetime(2022, 3, 4, tzinfo=UTC)
CONTRACT = feature_contract(dimension=2)
FP = CONTRACT.fingerprint
VIEW = f"girl_cold_start_{FP}"


class Repo(NamedTuple):
    folder: Path
    bundle: Path


def row(name: str, vector: list[float], day: int = 0) -> Row:
    return Row(name, DAY + timedelta(days=day), DAY + timedelta(days=day), vector)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Ann has a generated JD, Bob one of an older CV, Cid a CV alone; the student swaps the two numbers of a CV."""
    workspace = tmp_path_factory.mktemp("on-demand")
    store = PartsStore(workspace / "store")
    store.save_contract(CONTRACT)
    cvs = [row("ann", [1, 0]), row("bob", [1, 0], day=5), row("cid", [0.6, 0.8])]
    write_rows(store, CONTRACT, cvs, [row("job", [1, 1])], [row("ann", [3, 4]), row("bob", [5, 6])])
    student = VectorMap.linear(np.eye(2, dtype=np.float32)[::-1], np.zeros(2, np.float32), 1.0)
    means = np.array([0.5, 0.25], np.float32)
    bundle = write_bundle(workspace / "bundle", Bundle(CONTRACT, means, means, student, None, None), {})
    folder = workspace / "repo"
    write_repo(folder, store.root, "girl")
    definitions = folder / DEFINITIONS
    definitions.write_text(
        definitions.read_text()
        + f"""
from girl_features.integrations.on_demand_view import cold_start_view
globals().update(cold_start_view(globals(), {FP!r}, {str(bundle)!r}))
"""
    )
    apply_repo(folder)
    publish(folder, store, CONTRACT)
    return Repo(folder, bundle)


SEEKERS = ["ann", "bob", "cid", "nobody"]
WANTED = [[3.0, 4.0], [5.0, 6.0], [pytest.approx(0.8), pytest.approx(0.6)], [0.5, 0.25]]
TIERS = [Tier.GENERATED, Tier.STALE, Tier.STUDENT, Tier.PRIOR]


def test_feast_answers_by_tier_in_process(repo: Repo) -> None:
    asked = {"job_seeker_id": SEEKERS, "cv": [""] * 4}
    features = [f"{VIEW}:girl_vector", f"{VIEW}:girl_tier"]
    found = open_repo(repo.folder).get_online_features(features, asked).to_dict()
    assert found["girl_tier"] == TIERS
    assert found["girl_vector"] == WANTED


def test_feasts_server_answers_by_tier(repo: Repo) -> None:
    body = {
        "features": [f"{VIEW}:girl_vector", f"{VIEW}:girl_tier"],
        "entities": {"job_seeker_id": SEEKERS, "cv": ["another text than ann's CV", "", "", "<script>"]},
    }
    with serving(get_app(open_repo(repo.folder))) as port:
        found = Caller(port).post("/get-online-features", body).json
    columns = dict(zip(found["metadata"]["feature_names"], (r["values"] for r in found["results"]), strict=True))
    # the request's CV is not the one that ann's generated JD was made from; no encoder here reads the last one's
    assert columns["girl_tier"] == [Tier.STALE, Tier.STALE, Tier.STUDENT, Tier.PRIOR]
    assert columns["girl_vector"] == WANTED


def inputs(**changes: list[Any]) -> dict[str, list[Any]]:
    """What Feast hands over for one seeker with a generated JD."""
    known = {
        "generated_jd_vector": [[1.0, 2.0]],
        "generated_jd_known_at": [DAY],
        "cv_hash": ["0" * 16],
        "cv_vector": [[1.0, 0.0]],
        "cv_known_at": [DAY],
        "cv": [None],
    }
    return {**known, **changes}


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({}, Tier.GENERATED),
        ({"cv": [""]}, Tier.GENERATED),
        ({"cv": ["changed"]}, Tier.STALE),
        ({"cv_hash": [None], "cv": ["changed"]}, Tier.GENERATED),
        ({"cv_known_at": [DAY + timedelta(days=1)]}, Tier.STALE),
        ({"cv_known_at": [DAY.replace(tzinfo=None)]}, Tier.GENERATED),
        ({"cv_known_at": [None]}, Tier.GENERATED),
        ({"generated_jd_vector": [None]}, Tier.STUDENT),
        ({"generated_jd_vector": [None], "cv_vector": [None]}, Tier.PRIOR),
    ],
)
def test_tiers_of_one_seeker(repo: Repo, changes: dict[str, list[Any]], tier: Tier) -> None:
    found = answer(inputs(**changes), FP, str(repo.bundle), "2020-01-01T00:00:00+00:00")
    assert found["girl_tier"] == [tier]


def test_a_contract_the_views_lack_is_named(repo: Repo) -> None:
    views = girl_feature_views(repo.bundle.parent / "store")
    with pytest.raises(UnknownContractError, match=FP):
        cold_start_view(views, "ba9876543210", repo.bundle)


def test_no_bundle_is_read_to_apply_a_repo(repo: Repo) -> None:
    views = girl_feature_views(repo.bundle.parent / "store")
    assert list(cold_start_view(views, FP, "/nowhere")) == [VIEW]


@pytest.mark.parametrize(("strip_html", "tier"), [(True, Tier.GENERATED), (False, Tier.STALE)])
def test_a_cv_that_is_html_is_known_where_the_table_strips_it(repo: Repo, strip_html: bool, tier: Tier) -> None:
    given = inputs(cv_hash=[text_hash("R&D\nwelder")], cv=["<p>R&amp;D</p><b>welder</b>"])
    found = answer(given, FP, str(repo.bundle), "2020-01-01T00:00:00+00:00", strip_html=strip_html)
    assert found["girl_tier"] == [tier]
    view = next(
        iter(
            cold_start_view(
                girl_feature_views(repo.folder.parent / "store"), FP, repo.bundle, strip_html=strip_html
            ).values()
        )
    )
    assert ("strip_html=True" in view.feature_transformation.udf_string) == strip_html  # type: ignore[attr-defined]
