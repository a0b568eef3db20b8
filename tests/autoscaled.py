"""A Ray head whose autoscaler brings nodes, each a few processes on this machine; everything is gone afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.util import get_node_ip_address

from tests.ray_head import RAY, ROOT, free_ports, kill_all

HEAD = "ray.head.default"
EMPTY = [
    *(f"{of}setup_commands" for of in ("", "head_", "worker_")),
    *(f"{of}_start_ray_commands" for of in ("head", "worker")),
    "initialization_commands",
    "cluster_synced_files",
]
HEAD_ID = "f" * 51 + "00000"


@contextmanager
def autoscaled(kinds: Mapping[str, Mapping[str, Any]], idle_minutes: float = 5.0) -> Iterator[dict[str, str]]:
    """Start a head without CPUs and its autoscaler (v2) for nodes of these kinds, as in a cluster file.

    Gives the environment of commands that use the cluster. Ray's AutoscalingCluster stops every Ray of the machine.
    """
    with tempfile.TemporaryDirectory(prefix="ga-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        port, client = free_ports(2)
        address = f"{get_node_ip_address()}:{port}"
        cluster = {
            "cluster_name": "fake",
            "max_workers": 8,
            "idle_timeout_minutes": idle_minutes,
            "provider": {
                "type": "external",  # Ray's wheel lacks a file that its own name for it needs
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "launch_multiple": True,
                "head_node_id": HEAD_ID,
                "gcs_address": address,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}}
            | {name: {"node_config": {}} | dict(kind) for name, kind in kinds.items()},
            "head_node_type": HEAD,
            "auth": {},
            "upscaling_speed": 1.0,
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
        } | {key: [] for key in EMPTY}
        file = Path(scratch) / "cluster.json"
        file.write_text(json.dumps(cluster))
        hidden = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "PYTEST_CURRENT_TEST"}
        own = {name: value for name, value in os.environ.items() if name not in hidden}
        own |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
        theirs = own | {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_raylet_start_wait_time_s": "120",
        }
        command = [
            *RAY, "start", "--head", f"--temp-dir={scratch}/r", f"--port={port}",
            f"--autoscaling-config={file}", "--include-dashboard=false", f"--ray-client-server-port={client}",
            "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0", "--metrics-export-port=0",
            "--min-worker-port=0", "--max-worker-port=0", "--num-cpus=0", "--num-gpus=0",
            "--object-store-memory=100000000", "--disable-usage-stats",
        ]  # fmt: skip
        try:
            started = subprocess.run(command, env=theirs, capture_output=True, text=True, cwd=scratch, timeout=180)
            assert started.returncode == 0, started.stderr
            yield own | {"RAY_ADDRESS": address}
        finally:
            kill_all(scratch)
