"""Requests and answers of the ranking service as JSON, with limits of every input and examples for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ID_LENGTH = 512  # characters; `girl check` rejects longer ids than 512 bytes
MAX_JOBS = 500
MAX_SEEKERS = 100
MAX_CV_LENGTH = 100_000  # characters, about thirty pages

Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
CVText = Annotated[str, Field(max_length=MAX_CV_LENGTH)]
TierName = Literal["generated", "stale", "student", "neighbours", "prior"]

_NURSE = "Nurse, eight years on a ward for children. Night shifts, training of students, German and English."
_TIER: dict[str, Any] = {"tier": "generated", "age_seconds": 86400.0, "is_stale": False, "has_cv": True}


def _with_example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class _StrictModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RankRequest(_StrictModel):
    """Jobs to put in order for one seeker."""

    model_config = _with_example(job_seeker_id="seeker-1", cv=_NURSE, job_ids=["job-7", "job-12"])

    job_seeker_id: Id | None = Field(None, description="known or not; leave it out for a visitor who only has a CV")
    cv: CVText | None = Field(None, description="the present CV, if the caller has it")
    job_ids: list[Id] = Field(min_length=1, max_length=MAX_JOBS)

    @model_validator(mode="after")
    def _names_a_seeker(self) -> RankRequest:
        if self.job_seeker_id is None and self.cv is None:
            raise ValueError("give job_seeker_id, cv, or both")
        return self


class FeaturesRequest(_StrictModel):
    """Seekers whose vectors are wanted."""

    model_config = _with_example(job_seeker_ids=["seeker-1", "never-seen"], cvs=[None, _NURSE])

    job_seeker_ids: list[Id] = Field(min_length=1, max_length=MAX_SEEKERS)
    cvs: list[CVText | None] | None = Field(None, max_length=MAX_SEEKERS, description="a CV or null for each id")

    @model_validator(mode="after")
    def _one_cv_per_id(self) -> FeaturesRequest:
        if self.cvs is not None and len(self.cvs) != len(self.job_seeker_ids):
            raise ValueError(f"{len(self.job_seeker_ids)} ids need as many CVs, found {len(self.cvs)}")
        return self


class TierFields(BaseModel):
    """Quality of the answer for one seeker."""

    tier: TierName = Field(description="where the generated-JD vector came from, best first; prior: no vector")
    age_seconds: float | None = Field(description="since the stored generated JD became known; null if none is used")
    is_stale: bool = Field(description="the store has a generated JD, but the CV has changed since")
    has_cv: bool = Field(description="the seeker's own CV vector was used")


class ScoredJob(BaseModel):
    """One job of the list."""

    job_id: str
    score: float | None = Field(description="probability of a match; null where the pair cannot be scored")
    has_jd: bool = Field(description="the store has the job's vector")


class RankAnswer(TierFields):
    """The jobs, best first; jobs without a score come last, in the order of the request."""

    model_config = _with_example(
        **_TIER,
        contract="0123456789ab",
        jobs=[
            {"job_id": "job-12", "score": 0.81, "has_jd": True},
            {"job_id": "job-7", "score": 0.34, "has_jd": True},
        ],
    )

    contract: str = Field(description="fingerprint of the vectors, which is the one the ranker was trained on")
    jobs: list[ScoredJob]


class SeekerFeatures(TierFields):
    """Generated-JD vector of one seeker."""

    job_seeker_id: str
    generated_jd_vector: list[float]


class FeaturesAnswer(BaseModel):
    """A row for every id, in the order of the request."""

    model_config = _with_example(
        contract="0123456789ab",
        job_seekers=[{**_TIER, "job_seeker_id": "seeker-1", "generated_jd_vector": [0.1, -0.2]}],
    )

    contract: str
    job_seekers: list[SeekerFeatures]


class Problem(BaseModel):
    """Reason why a request was not answered."""

    detail: str


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok", "degraded"] = Field(
        description="degraded: the online store fails, so answers come from low tiers"
    )
    contract: str
    predictor: str
    store: str = Field(description="closed (healthy), open or half-open: the circuit breaker of the online store")
