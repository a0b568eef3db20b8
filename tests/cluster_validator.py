"""Ray's own check of a cluster file: the one place that touches its private module."""

from __future__ import annotations

import copy
from typing import Any


def validate_cluster(config: dict[str, Any]) -> dict[str, Any]:
    """The cluster file's mapping with Ray's defaults filled in; raises where ``ray up`` would refuse it.

    Needs no network. Unknown keys inside ``provider`` are not found, and neither are node types with
    min_workers above max_workers, which only the launch would meet: the latter is checked here.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    for name, node_type in prepared["available_node_types"].items():
        if node_type["min_workers"] > node_type["max_workers"]:
            raise ValueError(f"{name}: min_workers {node_type['min_workers']} > max_workers {node_type['max_workers']}")
    return prepared
