"""Which workers fit, and on what."""

from __future__ import annotations

import pytest

from gare.common.errors import ConfigError, RunError
from gare.config import Config, RuntimeConfig
from gare.config.tree import load_config
from gare.training.placement import groups_that_fit, uses_gpu, workers_that_fit


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


def elastic(workers, batch=12, *overrides) -> Config:
    return load_config(None, [f"runtime.workers={workers}", f"train.global_batch={batch}", *overrides])


@pytest.mark.parametrize(
    ("cpus", "count"), [([16], 8), ([5], 4), ([2, 2], 4), ([7], 6), ([2], 2), ([3, 0], 3), ([100, 100], 8)]
)
def test_a_range_takes_the_most_workers_that_fit_and_share_the_batch_evenly(cpus, count):
    nodes = [{"CPU": float(number)} for number in cpus]
    assert workers_that_fit(elastic("[2,8]", 24), nodes, "It") == count


def test_a_fixed_count_is_a_range_of_one():
    assert workers_that_fit(elastic("3"), [{"CPU": 8}], "It") == 3
    with pytest.raises(RunError, match="It needs 3 workers of 1 CPUs"):
        workers_that_fit(elastic("3"), [{"CPU": 2}], "It")


def test_a_range_that_does_not_fit_names_the_fewest_it_could_do_with():
    with pytest.raises(RunError, match=r"It needs 3 workers of 1 CPUs, but the cluster .* has room for 2"):
        workers_that_fit(elastic("[3,8]"), [{"CPU": 2}], "It")


def test_a_range_takes_gpus_when_the_fewest_workers_get_one_each():
    nodes = [{"CPU": 16, "GPU": 2}]
    assert uses_gpu(runtime(workers=[1, 4]), nodes)
    assert workers_that_fit(elastic("[1,4]"), nodes, "It") == 2
    assert not uses_gpu(runtime(workers=[3, 4]), nodes)


@pytest.mark.parametrize("workers", ["0", "[0,2]", "[3,2]", "[2]", "[1,2,3]", "[5,5]", "[7,11]", "1.5"])
def test_workers_that_are_no_count_and_no_range_for_the_batch_are_refused(workers):
    with pytest.raises(ConfigError, match="workers"):
        elastic(workers)


def test_trials_that_share_a_cluster_take_no_range():
    with pytest.raises(ConfigError, match=r"^A trial shares the cluster with others, so runtime\.workers must be one"):
        groups_that_fit(runtime(workers=[1, 2]), [{"CPU": 8}], "A trial")
