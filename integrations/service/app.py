"""The ranking service as a FastAPI app around a Ranking.

POST /rank and /features, GET /health/live, /health/ready, /metrics and /openapi.json. There is no authentication: bind
the service to a private address, behind your own gateway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from girl_features.errors import GirlError
from girl_features.integrations.online_ranking import RankedJobs, Ranking
from girl_features.integrations.service import models
from girl_features.integrations.service.limits import ARRIVED, Admission, BusyError, Limits, RequestGuard, busy_response
from girl_features.integrations.service.metrics import Metrics, tier_name
from girl_features.lookup import SeekerVectors

LOOKUP_SHARE = 0.8  # share of the remaining time for the lookup; the rest is for writing the /features answer
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    408: {"model": models.Problem, "description": "the body arrived too slowly"},
    413: {"model": models.Problem, "description": "the body is too large"},
    422: {"model": models.Problem, "description": "the body is not a valid request"},
    429: {"model": models.Problem, "description": "busy; `Retry-After` says when to try again"},
}
_log = logging.getLogger(__name__)


def create_app(
    ranking: Ranking, limits: Limits | None = None, queue_length: Callable[[], float] = lambda: 0.0
) -> FastAPI:
    """Make the service as an ASGI app; it closes the ranking's client when it ends.

    For /metrics, `queue_length` returns the number of CVs that wait for generation, or NaN if it is unknown.
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
        docs_url=None,  # the documentation pages load scripts from another host
        redoc_url=None,
        responses=_REFUSALS,
    )
    _add_error_handlers(app)
    _add_answers(app, ranking, admission, metrics)
    _add_health(app, ranking, metrics)
    app.add_middleware(
        RequestGuard, max_bytes=limits.max_body_bytes, is_full=lambda: admission.is_full, responded=metrics.responded
    )
    return app


def _add_answers(app: FastAPI, ranking: Ranking, admission: Admission, metrics: Metrics) -> None:
    @app.post("/rank", response_model=models.RankAnswer, summary="Put jobs in order for one seeker")
    async def rank(body: models.RankRequest, request: Request) -> Response:
        arrived = request.scope[ARRIVED]
        ranked = await admission.run(
            lambda until: ranking.rank(body.job_seeker_id, body.cv, body.job_ids, until), arrived
        )
        metrics.answered("/rank", ranked.seeker.tiers, time.monotonic() - arrived)
        return _json(_rank_answer(body.job_ids, ranked))

    @app.post("/features", response_model=models.FeaturesAnswer, summary="Vectors of seekers, each with its tier")
    async def features(body: models.FeaturesRequest, request: Request) -> Response:
        arrived = request.scope[ARRIVED]
        seekers = await admission.run(lambda until: _look_up(ranking, body, until), arrived)
        metrics.answered("/features", seekers.tiers, time.monotonic() - arrived)
        return _json(_features_answer(body.job_seeker_ids, seekers))


def _look_up(ranking: Ranking, body: models.FeaturesRequest, until: float) -> SeekerVectors:
    remaining_ms = max(0.0, until - time.monotonic()) * 1000
    return ranking.client.job_seekers(body.job_seeker_ids, body.cvs, remaining_ms * LOOKUP_SHARE)


def _add_health(app: FastAPI, ranking: Ranking, metrics: Metrics) -> None:
    def health() -> models.Health:
        state = ranking.client.store_state
        return models.Health(
            status="ok" if state == "closed" else "degraded",
            contract=ranking.client.contract,
            predictor=ranking.predictor,
            store=state,
        )

    @app.get("/health/live", summary="The process answers")
    async def live() -> models.Health:
        return health()

    @app.get("/health/ready", summary="Ranker and store are open; degraded still answers")
    async def ready() -> models.Health:
        return health()

    @app.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> Response:
        return busy_response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        """Say where and why the body is wrong, but do not repeat its content, which may be a CV."""
        problems = (f"{'.'.join(map(_safe_key, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return JSONResponse({"detail": "; ".join(problems)}, 422)

    @app.exception_handler(GirlError)
    async def failed(request: Request, error: GirlError) -> Response:
        _log.error("a request failed: %s", error)
        return JSONResponse({"detail": "this request cannot be answered; the service's log says why"}, 500)


def _safe_key(key: str | int) -> str:
    """Return one key of the path to a wrong value, or `?` if it could be text that the sender made up."""
    text = str(key)
    is_field_name = text.isascii() and text.isidentifier() and len(text) < 30
    return text if is_field_name or text.isdigit() else "?"


def _rank_answer(job_ids: list[str], ranked: RankedJobs) -> models.RankAnswer:
    jobs = [
        models.ScoredJob(job_id=job_ids[i], score=float(ranked.scores[i]), has_jd=bool(ranked.has_jd[i]))
        for i in ranked.order.tolist()
    ]
    return models.RankAnswer(**_tier_fields(ranked.seeker, 0), contract=ranked.seeker.contract, jobs=jobs)


def _features_answer(job_seeker_ids: list[str], seekers: SeekerVectors) -> models.FeaturesAnswer:
    vectors = seekers.vectors.tolist()
    rows = [
        models.SeekerFeatures(**_tier_fields(seekers, i), job_seeker_id=job_seeker_id, generated_jd_vector=vectors[i])
        for i, job_seeker_id in enumerate(job_seeker_ids)
    ]
    return models.FeaturesAnswer(contract=seekers.contract, job_seekers=rows)


def _tier_fields(seekers: SeekerVectors, row: int) -> dict[str, Any]:
    return {
        "tier": tier_name(int(seekers.tiers[row])),
        "age_seconds": float(seekers.age[row]),
        "is_stale": bool(seekers.is_stale[row]),
        "has_cv": bool(seekers.has_cv[row]),
    }


def _json(answer: BaseModel) -> Response:
    """Return JSON, NaN as null, with HTML's special characters escaped, so that an id cannot act as HTML in a page."""
    text = answer.model_dump_json()
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return Response(text, media_type="application/json")
