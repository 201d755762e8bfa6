"""What every section of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, with no key but those that are declared, each of its declared type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
