"""A ranking service over HTTP: FastAPI around a Ranking. An example to copy from, and what `girl serve` runs.

    app = create_app(Ranking.load(client, Path("ranker")))     # then: uvicorn, gunicorn or any ASGI server

POST /rank and /features, GET /health/live, /health/ready, /metrics and /openapi.json. There is no authentication: bind
it to a private address, behind whatever your services stand behind.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from girl_features.errors import GirlError, require
from girl_features.integrations.service.limits import ARRIVED, Admission, BusyError, Gate, Limits, busy_response
from girl_features.integrations.service.metrics import CONTENT_TYPE, Metrics, tier_name
from girl_features.integrations.service.models import (
    FeaturesAnswer,
    FeaturesRequest,
    Health,
    Problem,
    RankAnswer,
    RankRequest,
    ScoredJob,
    SeekerFeatures,
)
from girl_features.integrations.service.ranking import Ranked, Ranking
from girl_features.lookup import SeekerVectors

require("fastapi", "serve")
from fastapi import FastAPI, Request, Response  # noqa: E402
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from pydantic import BaseModel  # noqa: E402

LOOKUP_SHARE = 0.8  # of the time that is left: what is kept to write a /features answer
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "the body came too slowly"},
    413: {"model": Problem, "description": "the body is too large"},
    422: {"model": Problem, "description": "the body is not what is wanted here"},
    429: {"model": Problem, "description": "busy; `Retry-After` says when to try again"},
}
_log = logging.getLogger(__name__)


def create_app(
    ranking: Ranking, limits: Limits | None = None, queue_length: Callable[[], float] = lambda: 0.0
) -> FastAPI:
    """The service as an ASGI app; it closes the ranking's client when it ends.

    Args:
        ranking: what answers.
        limits: how much one process takes on.
        queue_length: CVs that wait for generation, for /metrics; NaN where that is not known.
    """
    limits = limits or Limits()
    admission = Admission(limits)
    metrics = Metrics(ranking.client.contract, ranking.predictor)
    metrics.watch("girl_waiting_requests", "Requests that wait for a thread", lambda: admission.n_waiting)
    metrics.watch("girl_generation_queue_length", "CVs that wait for generation", queue_length)
    metrics.watch("girl_store_up", "1: the online store answers", lambda: ranking.client.store_state == "closed")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        admission.close()
        ranking.client.close()

    app = FastAPI(
        title="girl-features ranking service",
        description="Jobs in order for a job seeker, by a ranker that reads generated-JD features.",
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from another host
        redoc_url=None,
        responses=_REFUSALS,
    )
    _add_handlers(app)
    _add_answers(app, ranking, admission, metrics)
    _add_health(app, ranking, metrics)
    app.add_middleware(
        Gate, max_bytes=limits.max_body_bytes, is_full=lambda: admission.is_full, responded=metrics.responded
    )
    return app


def _add_answers(app: FastAPI, ranking: Ranking, admission: Admission, metrics: Metrics) -> None:
    @app.post("/rank", response_model=RankAnswer, summary="Put jobs in order for one seeker")
    async def rank(asked: RankRequest, request: Request) -> Response:
        arrived = request.scope[ARRIVED]
        who, jobs = (asked.job_seeker_id, asked.cv), asked.job_ids
        ranked = await admission.run(lambda until: ranking.rank(*who, jobs, until), arrived)
        metrics.answered("/rank", ranked.seeker.tiers, time.monotonic() - arrived)
        return _json(_rank_answer(asked.job_ids, ranked))

    @app.post("/features", response_model=FeaturesAnswer, summary="Vectors of seekers, each with its tier")
    async def features(asked: FeaturesRequest, request: Request) -> Response:
        arrived = request.scope[ARRIVED]
        answer = await admission.run(lambda until: _look_up(ranking, asked, until), arrived)
        metrics.answered("/features", answer.tiers, time.monotonic() - arrived)
        return _json(_features_answer(asked.job_seeker_ids, answer))


def _look_up(ranking: Ranking, asked: FeaturesRequest, until: float) -> SeekerVectors:
    left = max(0.0, until - time.monotonic()) * 1000
    return ranking.client.job_seekers(asked.job_seeker_ids, asked.cvs, left * LOOKUP_SHARE)


def _add_health(app: FastAPI, ranking: Ranking, metrics: Metrics) -> None:
    def health() -> Health:
        state = ranking.client.store_state
        return Health(
            status="ok" if state == "closed" else "degraded",
            contract=ranking.client.contract,
            predictor=ranking.predictor,
            store=state,
        )

    @app.get("/health/live", summary="The process answers")
    async def live() -> Health:
        return health()

    @app.get("/health/ready", summary="Ranker and store are open; degraded still answers")
    async def ready() -> Health:
        return health()

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return busy_response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        """Where and why, never what was sent: that may be a CV."""
        problems = (f"{'.'.join(map(_plain, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return JSONResponse({"detail": "; ".join(problems)}, 422)

    @app.exception_handler(GirlError)
    async def refused(request: Request, error: GirlError) -> Response:
        _log.error("a request failed: %s", error)
        return JSONResponse({"detail": "this request cannot be answered; the service's log says why"}, 500)


def _plain(part: str | int) -> str:
    """One step of the way to a wrong value; a key of the sender's own is not repeated."""
    text = str(part)
    return text if (text.isascii() and text.isidentifier() and len(text) < 30) or text.isdigit() else "?"


def _rank_answer(job_ids: list[str], ranked: Ranked) -> RankAnswer:
    jobs = [
        ScoredJob(job_id=job_ids[i], score=_number(ranked.scores[i]), has_jd=bool(ranked.has_jd[i]))
        for i in ranked.order.tolist()
    ]
    return RankAnswer(**_tier_fields(ranked.seeker, 0), contract=ranked.seeker.contract, jobs=jobs)


def _features_answer(ids: list[str], found: SeekerVectors) -> FeaturesAnswer:
    vectors = found.vectors.tolist()
    rows = [
        SeekerFeatures(**_tier_fields(found, i), job_seeker_id=name, generated_jd_vector=vectors[i])
        for i, name in enumerate(ids)
    ]
    return FeaturesAnswer(contract=found.contract, job_seekers=rows)


def _tier_fields(found: SeekerVectors, row: int) -> dict[str, Any]:
    return {
        "tier": tier_name(int(found.tiers[row])),
        "age_seconds": _number(found.age[row]),
        "is_stale": bool(found.is_stale[row]),
        "has_cv": bool(found.has_cv[row]),
    }


def _number(value: np.floating) -> float | None:
    return float(value) if math.isfinite(value) else None


def _json(answer: BaseModel) -> Response:
    """JSON in which ids cannot pass for HTML, wherever it is pasted."""
    text = answer.model_dump_json()
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return Response(text, media_type="application/json")
