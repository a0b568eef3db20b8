"""Settings of a sweep: many experiments around the one that the rest of the tree describes."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from gare.config.base import Section, key


class SweepConfig(Section):
    """The dotted keys that vary, their values, and how trials are chosen and compared."""

    space: dict[str, Any] = Field(
        default_factory=dict,
        description="dotted key -> {choice: [...]}, {grid: [...]}, {uniform: [a, b]}, {loguniform: [a, b]}, {int: ...}",
        json_schema_extra={"unit": ""},
    )
    cases: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="name -> {dotted key: value}: settings that go together, each a row of a table; {} changes nothing",
        json_schema_extra={"unit": ""},
    )
    seeds: list[int] | None = key(
        None, "values of train.seed that every setting is trained with; the experiment's own when null"
    )
    search: Literal["random", "optuna"] = key(
        "random", "draw the trials from the space, or let Optuna choose each by the results of those before"
    )
    trials: int = key(8, "samples drawn (each grid combination, case and seed counts once per sample)", ge=1)
    confirm: int = key(
        0, "with search optuna: the best so many settings are afterwards trained with all seeds, to the end", ge=0
    )
    seed: int = key(0, "of the drawn samples", ge=0)
    metric: str = key("dev/t2v/R@1", "what trials are ranked by")
    mode: Literal["max", "min"] = key("max", "whether more is better")
    scheduler: Literal["none", "asha"] = key("none", "stop weak trials early, or let all finish")
    grace_epochs: int = key(1, "epochs every trial gets under asha", ge=1)
    max_concurrent: int | None = key(None, "trials at a time; what fits the cluster when null", ge=1)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        seeds = self.seeds
        if seeds is not None and (not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0):
            raise ValueError(f"sweep.seeds is {seeds}; list different whole numbers from 0 up, such as [0, 1, 2]")
        if self.search == "random":
            if self.confirm:
                raise ValueError(
                    "sweep.confirm goes with sweep.search: optuna, which tries one seed; otherwise every setting is "
                    "trained with all of sweep.seeds"
                )
            return self
        if self.cases:
            raise ValueError("sweep.cases are trained all, so they go with sweep.search: random, not with optuna")
        if self.confirm > self.trials:
            raise ValueError(f"sweep.confirm is {self.confirm}, more than the {self.trials} settings of sweep.trials")
        if (self.confirm > 0) != (seeds is not None and len(seeds) > 1):
            raise ValueError(
                "with sweep.search: optuna, the first of sweep.seeds is used while searching and the others for the "
                "settings of sweep.confirm: set both (at least two seeds), or neither"
            )
        return self
