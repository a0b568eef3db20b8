"""Which workers fit, and on what."""

from __future__ import annotations

import pytest

from gare.common.errors import RunError
from gare.config import RuntimeConfig
from gare.training.placement import groups_that_fit, uses_gpu


def runtime(**values):
    return RuntimeConfig.model_validate(values)


def test_auto_takes_gpus_only_when_every_worker_gets_one():
    one_gpu = [{"CPU": 8, "GPU": 1}]
    assert uses_gpu(runtime(workers=1), one_gpu)
    assert not uses_gpu(runtime(workers=2), one_gpu)
    assert not uses_gpu(runtime(workers=1, device="cpu"), one_gpu)
    assert uses_gpu(runtime(workers=2, device="cuda"), one_gpu)


def test_cpus_of_two_nodes_do_not_add_up_for_one_worker():
    nodes = [{"CPU": 3}, {"CPU": 3}]
    assert groups_that_fit(runtime(workers=2, cpus_per_worker=2.0), nodes, "It") == 1
    with pytest.raises(RunError, match=r"It needs 3 workers of 2 CPUs, but the cluster \(3 \+ 3 CPUs\) has room for 2"):
        groups_that_fit(runtime(workers=3, cpus_per_worker=2.0), nodes, "It")


def test_more_workers_than_gpus_are_refused_when_cuda_is_asked_for():
    with pytest.raises(RunError, match=r"and a GPU, but the cluster \(16 CPUs, 1 GPUs\) has room for 1"):
        groups_that_fit(runtime(workers=2, device="cuda"), [{"CPU": 16, "GPU": 1}], "It")
