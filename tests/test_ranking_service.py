"""The ranking service over loopback: answers by tier, hostile input, load, metrics, contracts."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from girl_features.errors import CheckpointError, ContractMismatchError, InvalidVectorError, ShapeError
from girl_features.evaluation.reference import CosineRanker
from girl_features.integrations.online_ranking import Ranking
from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker
from girl_features.integrations.rankers.registry import make_ranker
from girl_features.integrations.ranking_service import create_app
from girl_features.integrations.service.limits import Limits, RequestGuard
from girl_features.integrations.service.models import MAX_CV_LENGTH, MAX_ID_LENGTH, MAX_JOBS
from girl_features.ranker import PairColumns, PairFeatures
from tests.contracts import CONTRACT, OTHER_CONTRACT, fit, planted
from tests.fakes import VectorClient
from tests.http_server import Answer, Caller, serving

SCRIPT = "<script>alert('x')</script> & \u2028"
JOBS = {"east": [1.0, 0.0], "north": [0.0, 1.0], "north-east": [1.0, 1.0], SCRIPT: [0.5, 1.0]}
PATIENT = Limits(deadline_ms=60_000)  # a busy machine is no fault


def client(**arguments: Any) -> VectorClient:
    return VectorClient({"ann": [1.0, 0.0], SCRIPT: [1.0, 0.0]}, JOBS, CONTRACT, **arguments)


class FailingRanker(CosineRanker):
    """A ranker that raises what it was given, one after the other."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self._errors = iter(errors)

    def score(self, features: PairFeatures) -> np.ndarray:
        raise next(self._errors)


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    ranking = Ranking(client(), CosineRanker(), CONTRACT, "cosine")  # type: ignore[arg-type]
    with serving(create_app(ranking, PATIENT, lambda: 3.0)) as port:
        yield Caller(port)


def test_jobs_are_ordered_by_score_and_unknown_ones_stand_last(caller: Caller) -> None:
    answer = caller.post("/rank", {"job_seeker_id": "ann", "job_ids": ["gone", "north", "north-east", "lost", "east"]})
    assert answer.status == 200
    found = answer.json
    assert [job["job_id"] for job in found["jobs"]] == ["east", "north-east", "north", "gone", "lost"]
    # an untrained CosineRanker gives 1 / (1 + exp(-cosine)): cosines 1, sqrt(1/2) and 0
    wanted = [1 / (1 + np.exp(-cosine)) for cosine in (1, 0.5**0.5, 0)]
    assert [job["score"] for job in found["jobs"]] == [*map(pytest.approx, wanted), None, None]
    assert [job["has_jd"] for job in found["jobs"]] == [True, True, True, False, False]
    tier = {name: found[name] for name in ("tier", "age_seconds", "is_stale", "has_cv", "contract")}
    assert tier == {
        "tier": "generated",
        "age_seconds": 60.0,
        "is_stale": False,
        "has_cv": True,
        "contract": CONTRACT,
    }


def test_an_unknown_seeker_with_a_cv_gets_the_tier_below(caller: Caller) -> None:
    for who in ({"job_seeker_id": "new"}, {}):
        found = caller.post("/rank", {**who, "cv": "a nurse", "job_ids": ["east", "north"]}).json
        assert (found["tier"], found["age_seconds"]) == ("student", None)
        assert [job["job_id"] for job in found["jobs"]] == ["north", "east"]


def test_of_whom_nothing_is_known_the_jobs_come_back_unscored(caller: Caller) -> None:
    found = caller.post("/rank", {"job_seeker_id": "nobody", "job_ids": ["north", "east"]}).json
    assert (found["tier"], found["has_cv"]) == ("prior", False)
    assert [(job["job_id"], job["score"]) for job in found["jobs"]] == [("north", None), ("east", None)]


def test_features_of_several_seekers(caller: Caller) -> None:
    found = caller.post("/features", {"job_seeker_ids": ["ann", "new", "nobody"], "cvs": [None, "a nurse", None]}).json
    assert [row["job_seeker_id"] for row in found["job_seekers"]] == ["ann", "new", "nobody"]
    assert [row["tier"] for row in found["job_seekers"]] == ["generated", "student", "prior"]
    assert [row["generated_jd_vector"] for row in found["job_seekers"]] == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_html_in_ids_comes_back_escaped_and_equal(caller: Caller) -> None:
    answer = caller.post("/rank", {"job_seeker_id": SCRIPT, "cv": SCRIPT, "job_ids": [SCRIPT]})
    assert answer.json["jobs"][0]["job_id"] == SCRIPT
    assert not set("<>&\u2028") & set(answer.text)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rank", {"job_ids": ["east"]}),
        ("/rank", {"job_seeker_id": "ann", "job_ids": []}),
        ("/rank", {"job_seeker_id": "ann", "job_ids": ["x"] * (MAX_JOBS + 1)}),
        ("/rank", {"job_seeker_id": "", "job_ids": ["east"]}),
        ("/rank", {"job_seeker_id": "x" * (MAX_ID_LENGTH + 1), "job_ids": ["east"]}),
        ("/rank", {"job_seeker_id": "ann", "cv": "x" * (MAX_CV_LENGTH + 1), "job_ids": ["east"]}),
        ("/rank", {"job_seeker_id": 7, "job_ids": ["east"]}),
        ("/rank", {"job_seeker_id": "ann", "job_ids": "east"}),
        ("/rank", {"job_seeker_id": "ann", "job_ids": [None]}),
        ("/rank", {"job_seeker_id": "ann", "job_ids": ["east"], "SECRET<b>": 1}),
        ("/features", {"job_seeker_ids": ["ann"], "cvs": ["SECRET", "SECRET"]}),
        ("/rank", b'{"job_seeker_id": "\\ud800 SECRET", "job_ids": ["east"]}'),
        ("/rank", b"SECRET"),
        ("/rank", b"\xff\xfe\x00"),
        ("/rank", b"%PDF-1.7 SECRET"),
        ("/rank", b"null"),
        ("/rank", b"NaN"),
        ("/rank", b""),
        ("/rank", b"[" * 100_000),
        ("/rank", b'{"a":' * 100_000),
    ],
)
def test_wrong_input_is_refused_and_not_repeated(caller: Caller, path: str, body: object) -> None:
    answer = caller.post(path, body)
    assert answer.status in (400, 422), answer
    assert isinstance(answer.json["detail"], str)
    assert "SECRET" not in answer.text and len(answer.text) < 1000
    assert "Traceback" not in answer.text


def test_a_body_that_is_too_large_is_refused(caller: Caller) -> None:
    answer = caller.post("/rank", b" " * (PATIENT.max_body_bytes + 1))
    assert (answer.status, "larger than" in answer.json["detail"]) == (413, True)


def test_a_body_that_never_ends_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("passed on")

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    refused: list[tuple[str, int]] = []
    slow = RequestGuard(app, 1000, lambda: False, lambda path, status: refused.append((path, status)), seconds=0.1)
    asyncio.run(slow({"type": "http", "method": "POST", "path": "/rank", "headers": []}, receive, send))
    assert sent[0]["status"] == 408 and refused == [("other", 408)]


def test_faults_of_ours_say_nothing_of_the_request() -> None:
    failing = FailingRanker(RuntimeError("SECRET cv text"), InvalidVectorError("SECRET cv text"))
    ranking = Ranking(client(), failing, CONTRACT, "failing")  # type: ignore[arg-type]
    with serving(create_app(ranking, PATIENT)) as port:
        for n_failed in (1, 2):
            answer = Caller(port).post("/rank", {"job_seeker_id": "ann", "job_ids": ["east"]})
            assert answer.status == 500
            assert metrics(Caller(port))['girl_responses_total{path="/rank",status="500"}'] == n_failed
            assert "SECRET" not in answer.text and "Traceback" not in answer.text
            assert Caller(port).get("/health/live").status == 200


def test_unknown_paths_and_methods(caller: Caller) -> None:
    assert caller.get("/rank").status == 405
    assert caller.get("/../etc/passwd").status == 404
    assert caller.get("/docs").status == 404  # it would load scripts from another host


def test_health_says_when_the_store_fails(caller: Caller) -> None:
    assert caller.get("/health/ready").json == {
        "status": "ok",
        "contract": CONTRACT,
        "predictor": "cosine",
        "store": "closed",
    }
    failing = client()
    failing.store_state = "open"
    with serving(create_app(Ranking(failing, CosineRanker(), CONTRACT, "cosine"), PATIENT)) as port:  # type: ignore[arg-type]
        other = Caller(port)
        assert other.get("/health/ready").json["status"] == "degraded"
        assert "girl_store_up 0.0" in other.get("/metrics").text
    assert failing.is_closed  # with the service


def test_metrics_count_tiers_statuses_and_queues(caller: Caller) -> None:
    before = metrics(caller)
    caller.post("/rank", {"job_seeker_id": "ann", "job_ids": ["east"]})
    caller.post("/features", {"job_seeker_ids": ["ann", "nobody", "other"]})
    caller.post("/rank", {})
    caller.get(f"/{'x' * 50}")
    after = metrics(caller)
    gained = {name: value - before.get(name, 0) for name, value in after.items()}
    assert gained['girl_answers_total{tier="generated"}'] == 2
    assert gained['girl_answers_total{tier="prior"}'] == 2
    assert gained['girl_answers_total{tier="stale"}'] == 0
    assert gained['girl_request_seconds_count{path="/rank",tier="generated"}'] == 1
    assert gained['girl_request_seconds_count{path="/features",tier="prior"}'] == 1
    assert gained['girl_responses_total{path="/rank",status="200"}'] == 1
    assert gained['girl_responses_total{path="/rank",status="422"}'] == 1
    assert gained['girl_responses_total{path="other",status="404"}'] == 1
    assert after["girl_generation_queue_length"] == 3
    assert after["girl_waiting_requests"] == 0
    assert after["girl_store_up"] == 1
    assert after[f'girl_service_info{{contract="{CONTRACT}",predictor="cosine"}}'] == 1


def metrics(caller: Caller) -> dict[str, float]:
    answer = caller.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_openapi_has_examples_and_the_refusals(caller: Caller) -> None:
    schema = caller.get("/openapi.json").json
    for path in ("/rank", "/features"):
        operation = schema["paths"][path]["post"]
        assert {"200", "408", "413", "422", "429"} <= set(operation["responses"])
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        [example] = schema["components"]["schemas"][name]["examples"]
        assert caller.post(path, example).status == 200
    assert schema["components"]["schemas"]["RankAnswer"]["examples"]


def post_from(port: int, n: int, path: str = "/rank") -> list[Answer]:
    """One caller's requests, one after the other."""
    own = Caller(port)
    return [own.post(path, {"job_seeker_id": "ann", "job_ids": ["east", "north"]}) for _ in range(n)]


def test_ten_times_the_load_gives_answers_or_429_and_nothing_else() -> None:
    limits = Limits(n_threads=2, n_waiting=2, deadline_ms=60_000)
    busy = threading.Semaphore(0)
    slow = client(wait=lambda: busy.acquire(timeout=0.02))  # some 20 ms of work
    with serving(create_app(Ranking(slow, CosineRanker(), CONTRACT, "cosine"), limits)) as port:  # type: ignore[arg-type]
        n_callers = 10 * (limits.n_threads + limits.n_waiting)
        with ThreadPoolExecutor(n_callers) as callers:
            answers = [a for own in callers.map(lambda _: post_from(port, 5), range(n_callers)) for a in own]
        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 429} and sum(counts.values()) == 5 * n_callers
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status == 429)
        assert {answer.json["jobs"][0]["job_id"] for answer in answers if answer.status == 200} == {"east"}
        assert post_from(port, 1)[0].status == 200  # and afterwards all is well


def test_a_request_past_its_deadline_is_refused_and_frees_its_place() -> None:
    blocked = threading.Semaphore(0)
    held = client(wait=lambda: blocked.acquire(timeout=30))
    limits = Limits(n_threads=1, n_waiting=5, deadline_ms=150)
    with serving(create_app(Ranking(held, CosineRanker(), CONTRACT, "cosine"), limits)) as port:  # type: ignore[arg-type]
        with ThreadPoolExecutor(2) as callers:  # one at work, one that waits for it
            late = [a for own in callers.map(lambda _: post_from(port, 1), range(2)) for a in own]
        assert [answer.status for answer in late] == [429, 429]
        held.wait = lambda: None
        blocked.release(10)
        statuses = [post_from(port, 1)[0].status for _ in range(20)]
        assert 200 in statuses and set(statuses) <= {200, 429}


def test_a_ranker_of_another_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractMismatchError, match=f"{CONTRACT}.*trained on '{OTHER_CONTRACT}'"):
        Ranking(client(), CosineRanker(), OTHER_CONTRACT, "cosine")  # type: ignore[arg-type]
    ranker = fit(LightGBMRanker("lightgbm", "base"), planted(200, 0, 2), planted(100, 1, 2))
    assert isinstance(ranker, LightGBMRanker)
    ranker.save(tmp_path)
    loaded = Ranking.load(client(), tmp_path)  # type: ignore[arg-type]
    assert (loaded.predictor, np.isfinite(loaded.rank("ann", None, ["east"], 1e12).scores).all()) == ("lightgbm", True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "contract": OTHER_CONTRACT}))
    with pytest.raises(ContractMismatchError, match=OTHER_CONTRACT):
        Ranking.load(client(), tmp_path)  # type: ignore[arg-type]
    columned = tmp_path / "columned"
    parts = [planted(200, seed, 2) for seed in (0, 1)]
    given = [PairColumns(("style",), np.arange(200, dtype=np.float32)[:, None])] * 2
    train, valid = (p._replace(features=p.features._replace(columns=c)) for p, c in zip(parts, given, strict=True))
    for made in (LightGBMRanker("lightgbm", "base"), make_ranker("dot", "enhanced", 0)):
        fit(made, train, valid).save(columned)  # type: ignore[attr-defined]
        with pytest.raises(ShapeError, match="reads the columns style beside the vectors"):
            Ranking.load(client(), columned)  # type: ignore[arg-type]
        shutil.rmtree(columned)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        Ranking.load(client(), tmp_path / "nowhere")  # type: ignore[arg-type]
