"""Settings of a sweep: many experiments around the one the rest of the tree describes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gare.config.base import Section, key


class SweepConfig(Section):
    """Which dotted keys vary, over what, and how trials are chosen and compared."""

    space: dict[str, Any] = Field(
        default_factory=dict,
        description="dotted key -> {choice: [...]}, {grid: [...]}, {uniform: [a, b]}, {loguniform: [a, b]}, {int: ...}",
        json_schema_extra={"unit": ""},
    )
    trials: int = key(8, "samples drawn (each grid combination counts once per sample)", ge=1)
    seed: int = key(0, "of the drawn samples", ge=0)
    metric: str = key("dev/t2v/R@1", "what trials are ranked by")
    mode: Literal["max", "min"] = key("max", "whether more is better")
    scheduler: Literal["none", "asha"] = key("none", "stop weak trials early, or let all finish")
    grace_epochs: int = key(1, "epochs every trial gets under asha", ge=1)
    max_concurrent: int | None = key(None, "trials at a time; what fits the cluster when null", ge=1)
