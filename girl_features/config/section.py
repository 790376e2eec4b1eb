"""The base class of every section of `girl.yaml`, and a check that several sections share."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of `girl.yaml`: its values never change, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_utc(value: datetime | None) -> datetime | None:
    """Return the same moment in UTC; a time without a zone is read as UTC."""
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
