"""The base of every section of the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of the tree: unknown keys are refused and nothing is silently converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def key(default: Any, meaning: str, *, unit: str = "", **constraints: Any) -> Any:
    """Define a documented setting: default, meaning, unit, and pydantic's constraints (``ge``, ``gt``, ...)."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit}, **constraints)


def section(kind: type[Section], meaning: str) -> Any:
    """Define a nested section with its own defaults."""
    return Field(default_factory=kind, description=meaning)
