"""Two small Ray nodes with a token, and ``gare doctor --cluster`` asked with the arguments; prints a JSON line each.

A process of its own: the mode of authentication is read once, when ray is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

TOKEN, OTHER = "ab" * 16, "cd" * 16
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}

SMALL = {"include_dashboard": False, "object_store_memory": 100 * 2**20}


def main() -> None:
    """Ask with the right token, then with another one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])
        for token in (TOKEN, OTHER):
            done = subprocess.run(
                [sys.executable, "-m", "gare", "doctor", "--cluster", "--json", *sys.argv[1:]],
                env=os.environ | {"RAY_ADDRESS": cluster.address, "RAY_AUTH_TOKEN": token},
                capture_output=True,
                text=True,
                check=False,
            )
            print(json.dumps({"code": done.returncode, "result": json.loads(done.stdout)}), flush=True)  # noqa: T201
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
