"""``gare sweep --dry-run``: what a sweep would be, as a table and a few lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gare.common.console import note, print_table, say
from gare.common.nodes import Node

if TYPE_CHECKING:
    from gare.config import Config
    from tune.dry_run import SweepPlan


def plan_sweep(config: Config, extend: int) -> dict[str, Any]:
    """Plan the sweep of ``config``, print it and return it. Nothing is written, and no cluster is started."""
    from tune.dry_run import make_plan

    nodes, where = _nodes(config)
    plan = make_plan(config, nodes, extend=extend)
    _print(plan, config, where)
    return {"config": config.model_dump(mode="json"), "cluster": where} | plan.as_json()


def _nodes(config: Config) -> tuple[list[Node], str]:
    """The nodes the sweep would find, and in words which."""
    import ray

    from gare.cli.ray_session import local_cpus, ray_session

    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        import torch

        node = Node({"CPU": float(local_cpus(config.runtime)), "GPU": float(torch.cuda.device_count())})
        return [node], "the cluster that gare sweep starts on this machine"
    with ray_session(config.runtime):
        from gare.common.ray_cluster import cluster_nodes

        return cluster_nodes(), "the cluster that is running"


def _print(plan: SweepPlan, config: Config, where: str) -> None:
    from gare.config.tree import flatten
    from gare.launch.progress import duration
    from tune.comparison import cell, short_keys

    own = flatten(config)
    keys = sorted({key for trial in plan.trials for key in trial.overrides})
    cases = ["case"] if any(trial.case for trial in plan.trials) else []
    columns = ["trial", *cases, *short_keys(keys), "epochs", "steps", "about"]
    rows = [
        [
            trial.name,
            *([trial.case or ""] if cases else []),
            *(cell(trial.overrides.get(key, own[key])) for key in keys),
            str(trial.epochs),
            f"{trial.steps:,}",
            duration(trial.seconds),
        ]
        for trial in plan.trials
    ]
    if rows:
        print_table(f"Trials of {plan.name}", columns, rows)
    if plan.suggested:
        more = f", those that confirm the best {config.sweep.confirm} among them" if config.sweep.confirm else ""
        say(f"{plan.suggested} trials whose settings are chosen as results come in{more}.")
    if plan.done:
        say(f"{plan.done} trials are done already and are not trained again.")
    cost = plan.cost
    asks = " and ".join(f"{amount:g} {name}" for name, amount in plan.slots.resources.items())
    total = (
        f"A trial asks for {asks}. On {where}, {plan.slots.why}.\n"
        f"Measured here, on {cost.device}: a step {cost.step_s:.2f} s (median of {cost.steps} after a warm-up), dev "
        f"{cost.dev_s:.1f} s (by {cost.dev_videos} of its videos), data and model {cost.set_up_s:.1f} s. "
        f"Not measured: about {plan.start_s:.0f} s a trial for its processes.\n"
        f"In all about {duration(plan.seconds)} (h:mm:ss), {plan.slots.at_once} at a time. Nothing was written."
    )
    say(total)
    for remark in plan.remarks:
        note(remark)
