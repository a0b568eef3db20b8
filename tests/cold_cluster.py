"""Train a run, whose settings the first argument names, on two one-CPU nodes: one has a copy of the shards, one not.

The second argument is the folder of the nodes' caches, ``warm`` and ``cold``. The cold node's copy cannot be made until
its rank has kept the other one waiting for longer than torch waits for anything. A process of its own, since a process
knows one cluster only. Writes the summary as JSON into the third argument.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

TORCH_SECONDS = 2


def main() -> None:
    caches = Path(sys.argv[2])
    os.environ["GARE_CACHE"] = str(caches / "warm")  # the driver's, too
    import ray
    from ray.cluster_utils import Cluster

    from gare.common.locks import take_lock
    from gare.common.storage import Folder
    from gare.config.tree import load_config
    from gare.data.cache import Cache, hold
    from gare.data.cache.entries import copy_lock, entries
    from gare.launch import ray_train
    from gare.launch.ray_ranks import RankGroup

    config = load_config(sys.argv[1])
    hold(Folder.at(config.runtime.shards), Cache.of(config.runtime)).close()
    warm, cold = (caches / name / "shards" for name in ("warm", "cold"))
    copying = take_lock(copy_lock(cold, entries(warm)[0].digest))

    def let_copy() -> None:
        while entries(warm)[0].state != "in use":
            time.sleep(0.05)
        time.sleep(2.5 * TORCH_SECONDS)
        os.close(copying)

    ray_train.RankGroup = partial(RankGroup, timeout_s=TORCH_SECONDS)
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    for name in ("warm", "cold"):
        cluster.add_node(num_cpus=1, env_vars={"GARE_CACHE": str(caches / name)}, **small)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    waiting = threading.Timer(0, let_copy)
    waiting.daemon = True
    waiting.start()
    try:
        Path(sys.argv[3]).write_text(json.dumps(asdict(ray_train.fit(config, quiet=True)), default=str))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
