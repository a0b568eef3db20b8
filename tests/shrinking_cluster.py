"""Train a run, whose settings the first argument names, on a cluster of two one-CPU nodes that loses one of them.

A process of its own, since a process knows one cluster only. Writes the summary as JSON to the second argument. With
``drain`` as the third one, the node that trains is drained, as a spot machine is, and is not killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path


def drain(address: str) -> None:
    """Drain the node whose CPU is in use, by Ray's own command."""
    import ray

    free = ray._private.state.available_resources_per_node()
    node = next(n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU") and not free[n["NodeID"]].get("CPU"))
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "120"], check=True, stdout=sys.stderr)


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    from gare.config.tree import load_config
    from gare.launch.ray_train import fit
    from gare.runs.layout import run_directory

    config = load_config(sys.argv[1])
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def lose_a_node() -> None:
        history = run_directory(config) / "history.jsonl"
        while not history.is_file() or len(history.read_text().splitlines()) < 6:
            time.sleep(0.05)
        if sys.argv[3:] == ["drain"]:
            drain(cluster.address)
        else:
            cluster.remove_node(nodes[1], allow_graceful=False)

    threading.Thread(target=lose_a_node, daemon=True).start()
    try:
        summary = fit(config, quiet=True)
        Path(sys.argv[2]).write_text(json.dumps(asdict(summary), default=str))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
