"""``gare train --dry-run`` and ``gare sweep --dry-run``: show the plan of a run or a sweep as tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gare.common.console import note, print_table, say
from gare.common.nodes import Node

if TYPE_CHECKING:
    from gare.config import Config
    from gare.launch.dry_run.corpus import Corpus, SplitCounts
    from gare.launch.dry_run.memory import Memory
    from gare.launch.dry_run.plan import Parameters, Plan
    from tune.dry_run import SweepPlan

GIB = 2**30
MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser's state, and the weights' average",
    "batches": "batches made ready",
    "pixels": "pixels encoded at once",
    "text_tower": "kept of the text tower",
    "image_tower": "kept of the image tower",
    "temporal": "kept of the temporal transformer",
    "pairs": "kept of pair head and objective",
}


def dry_run(config: Config, manifest: Path | None, *, local: bool) -> dict[str, Any]:
    """Plan the run of ``config``, print it, and return it with the resolved settings."""
    from gare.launch.dry_run.plan import make_plan

    corpus = _of_manifest(manifest, config) if manifest is not None else None
    plan = make_plan(config, corpus, workers=1 if local else None)
    _print(plan, config)
    return {"config": config.model_dump(mode="json")} | plan.as_json()


def _of_manifest(path: Path, config: Config) -> Corpus:
    from gare.launch.dry_run.corpus import Corpus
    from pipelines.manifest.load import load_manifest
    from pipelines.manifest.rows import rows_of

    table = load_manifest(path).select(["split", "captions", "attributes"])
    rows = ((row["split"], len(row["captions"]), dict(row["attributes"] or [])) for row in rows_of(table))
    return Corpus.of_rows(str(path), rows, config)


def _print(plan: Plan, config: Config) -> None:
    changed = [[key, _cell(value), _cell(default)] for key, (default, value) in plan.changed.items()]
    print_table(f"Settings of {plan.name} that differ from the defaults", ["setting", "value", "default"], changed)
    if plan.corpus is not None:
        rows = [
            [name, f"{counts.videos:,}", f"{counts.captions:,}", _use(name, counts, config)]
            for name, counts in plan.corpus.splits.items()
        ]
        print_table(f"Videos of {plan.corpus.where}", ["split", "videos", "captions", "use"], rows)
    print_table("The run", ["what", "how much"], [*_steps(plan, config), *_disk(plan)])
    if plan.parameters is not None:
        _print_parameters(plan.parameters)
    if plan.memory is not None:
        _print_memory(plan.memory, plan, config)
    for remark in plan.remarks:
        note(remark)
    refused = [[problem] for problem in plan.problems] or [["nothing that could be seen from here"]]
    print_table("What would be refused", ["reason"], refused)


def _use(name: str, counts: SplitCounts, config: Config) -> str:
    if counts.trained_on:
        return "trained on" if counts.trained_on == counts.videos else f"{counts.trained_on:,} trained on"
    chooses = name == config.data.dev_split and config.protocol.dev == "held_out"
    return "chooses the checkpoint" if chooses else "not looked at"


def _steps(plan: Plan, config: Config) -> list[list[object]]:
    rows: list[list[object]] = [["the checkpoint is chosen by", plan.selected_by]]
    if plan.steps is None:
        return rows
    steps = plan.steps
    return [
        ["pairs in an epoch", f"{steps.pairs:,}, of which {steps.dropped:,} do not fill a batch"],
        ["steps in an epoch", f"{steps.per_epoch:,} of {config.train.global_batch} pairs"],
        ["steps in all", f"{steps.total:,} in {config.train.epochs} epochs, {steps.warmup:,} of them warm-up"],
        *rows,
    ]


def _disk(plan: Plan) -> list[list[object]]:
    if plan.disk is None:
        return []
    rows: list[list[object]] = [
        ["shards, raw frames", f"at most {_gib(plan.disk.raw)}"],
        ["shards, JPEG frames", f"about {_gib(plan.disk.jpeg)} at quality 90, a rough estimate"],
    ]
    return rows if plan.disk.stored is None else [*rows, ["shards that are there", _gib(plan.disk.stored)]]


def _print_parameters(found: Parameters) -> None:
    columns = ["group", "tensors", "parameters", "peak rate", "decay"]
    groups = [[g.name, g.tensors, f"{g.parameters:,}", f"{g.peak_lr:g}", f"{g.weight_decay:g}"] for g in found.groups]
    print_table("Trained parameters", columns, groups)
    parts = [*found.parts.items(), ("trained", found.trained), ("frozen", found.frozen)]
    print_table("All parameters", ["part", "parameters"], [[name, f"{count:,}"] for name, count in parts])


def _print_memory(memory: Memory, plan: Plan, config: Config) -> None:
    pairs = f"{config.train.increments} increments" if config.model.makes_increments else "no increments"
    title = f"Memory of one of {plan.workers} workers ({memory.rows} pairs, {pairs})"
    rows = [[label, getattr(memory, name) / GIB] for name, label in MEMORY.items()]
    print_table(title, ["part", "GiB, estimated"], [*rows, ["peak", memory.peak / GIB]])
    note(
        "The parts are not all there at the same moment. It is what a step's tensors take with every clip full; "
        "what the device, its kernels and its allocator need comes on top."
    )


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def dry_run_sweep(config: Config, extend: int) -> dict[str, Any]:
    """Plan the sweep of ``config``, print it and return it. Nothing is written, and no cluster is started."""
    from tune.dry_run import make_plan

    nodes, where = _nodes(config)
    plan = make_plan(config, nodes, extend=extend)
    _print_sweep(plan, config, where)
    return {"config": config.model_dump(mode="json"), "cluster": where} | plan.as_json()


def _nodes(config: Config) -> tuple[list[Node], str]:
    """Return the nodes that the sweep would find, and a phrase that names their cluster."""
    import ray

    from gare.launch.ray_session import local_cpus, ray_session

    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        import torch

        node = Node({"CPU": float(local_cpus(config.runtime)), "GPU": float(torch.cuda.device_count())})
        return [node], "the cluster that gare sweep starts on this machine"
    with ray_session(config.runtime):
        from gare.common.ray_cluster import cluster_nodes

        return cluster_nodes(), "the cluster that is running"


def _print_sweep(plan: SweepPlan, config: Config, where: str) -> None:
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
