"""Which workers fit, and on what."""

from __future__ import annotations

import pytest

from gare.common.errors import ConfigError, RunError
from gare.common.nodes import Node
from gare.config import Config, RuntimeConfig
from gare.config.tree import load_config
from gare.launch.placement import choose_zone, fits, group_zones, uses_gpu, workers_that_fit


def runtime(**values):
    return RuntimeConfig.model_validate(values)


def test_auto_takes_gpus_only_when_every_worker_gets_one():
    one_gpu = [Node({"CPU": 8, "GPU": 1})]
    assert uses_gpu(runtime(workers=1), one_gpu)
    assert not uses_gpu(runtime(workers=2), one_gpu)
    assert not uses_gpu(runtime(workers=1, device="cpu"), one_gpu)
    assert uses_gpu(runtime(workers=2, device="cuda"), one_gpu)


def test_cpus_of_two_nodes_do_not_add_up_for_one_worker():
    nodes = [Node({"CPU": 3}), Node({"CPU": 3})]
    assert len(group_zones(runtime(workers=2, cpus_per_worker=2.0), nodes, "It")) == 1
    with pytest.raises(RunError, match=r"It needs 3 workers of 2 CPUs, but the cluster \(3 \+ 3 CPUs\) has room for 2"):
        group_zones(runtime(workers=3, cpus_per_worker=2.0), nodes, "It")


def test_more_workers_than_gpus_are_refused_when_cuda_is_asked_for():
    with pytest.raises(RunError, match=r"and a GPU, but the cluster \(16 CPUs, 1 GPUs\) has room for 1"):
        group_zones(runtime(workers=2, device="cuda"), [Node({"CPU": 16, "GPU": 1})], "It")


def elastic(workers, batch=12, *overrides) -> Config:
    return load_config(None, [f"runtime.workers={workers}", f"train.global_batch={batch}", *overrides])


@pytest.mark.parametrize(
    ("cpus", "count"), [([16], 8), ([5], 4), ([2, 2], 4), ([7], 6), ([2], 2), ([3, 0], 3), ([100, 100], 8)]
)
def test_a_range_takes_the_most_workers_that_fit_and_share_the_batch_evenly(cpus, count):
    nodes = [Node({"CPU": float(number)}) for number in cpus]
    assert workers_that_fit(elastic("[2,8]", 24), nodes, "It") == count


def test_a_fixed_count_is_a_range_of_one():
    assert workers_that_fit(elastic("3"), [Node({"CPU": 8})], "It") == 3
    with pytest.raises(RunError, match="It needs 3 workers of 1 CPUs"):
        workers_that_fit(elastic("3"), [Node({"CPU": 2})], "It")


def test_a_range_that_does_not_fit_names_the_fewest_it_could_do_with():
    with pytest.raises(RunError, match=r"It needs 3 workers of 1 CPUs, but the cluster .* has room for 2"):
        workers_that_fit(elastic("[3,8]"), [Node({"CPU": 2})], "It")


def test_a_range_takes_gpus_when_the_fewest_workers_get_one_each():
    nodes = [Node({"CPU": 16, "GPU": 2})]
    assert uses_gpu(runtime(workers=[1, 4]), nodes)
    assert workers_that_fit(elastic("[1,4]"), nodes, "It") == 2
    assert not uses_gpu(runtime(workers=[3, 4]), nodes)


@pytest.mark.parametrize("workers", ["0", "[0,2]", "[3,2]", "[2]", "[1,2,3]", "[5,5]", "[7,11]", "1.5"])
def test_workers_that_are_no_count_and_no_range_for_the_batch_are_refused(workers):
    with pytest.raises(ConfigError, match="workers"):
        elastic(workers)


def test_trials_that_share_a_cluster_take_no_range():
    with pytest.raises(ConfigError, match=r"^A trial shares the cluster with others, so runtime\.workers must be one"):
        group_zones(runtime(workers=[1, 2]), [Node({"CPU": 8})], "A trial")


def node(cpus, gpus=0, **labels):
    names = {"role": "gare.role", "zone": "ray.io/availability-zone"}
    return Node({"CPU": cpus, "GPU": gpus}, {names.get(key, key): value for key, value in labels.items()})


def test_ranks_keep_off_nodes_for_decoding_and_the_refusal_says_so():
    nodes = [node(4, role="train"), node(8, role="decode"), node(8, role="decode"), node(1), node(0)]
    assert len(group_zones(runtime(workers=1), nodes, "It")) == 5
    assert not fits(runtime(workers=6), nodes, 6)
    with pytest.raises(
        RunError,
        match=r"\(4 \+ 1 \+ 0 CPUs\) has room for 5 without 2 nodes whose labels are not {gare.role: !decode}; "
        r"lower runtime.workers or runtime.cpus_per_worker, or change runtime.train_on\.",
    ):
        group_zones(runtime(workers=6), nodes, "It")
    assert len(group_zones(runtime(workers=1, train_on={}), nodes, "It")) == 21
    assert len(group_zones(runtime(workers=1, train_on={"gare.role": "in(train)"}), nodes, "It")) == 4


def test_gpus_of_nodes_that_ranks_keep_off_are_not_counted():
    nodes = [node(4, 2, role="decode"), node(4)]
    assert not uses_gpu(runtime(workers=1), nodes)
    assert uses_gpu(runtime(workers=1, train_on={"gare.role": "decode"}), nodes)


def test_a_zone_that_holds_all_ranks_is_taken_the_one_with_most_room_first():
    nodes = [node(2, zone="a"), node(3, zone="b"), node(2, zone="b"), node(5, zone="c"), node(64)]
    assert choose_zone(runtime(), nodes, 2) == "b"
    assert choose_zone(runtime(), nodes, 2, wanted="a") == "a"
    assert choose_zone(runtime(), nodes, 3, wanted="a") == "b"
    assert choose_zone(runtime(), nodes, 6) is None
    free = [node(1, zone="a"), node(1, zone="b"), node(2, zone="b"), node(1, zone="c")]
    assert choose_zone(runtime(), nodes, 3, free=free) == "b"
    assert choose_zone(runtime(), nodes, 3, free=[node(0, zone="b"), node(4, zone="c")]) == "c"


@pytest.mark.parametrize(
    ("close_by", "nodes"),
    [
        (None, [node(4, zone="a"), node(4, zone="b")]),
        ("rack", [node(4, zone="a"), node(4, zone="b")]),
        ("ray.io/availability-zone", [node(4, zone="a"), node(4, zone="a"), node(9)]),
        ("ray.io/availability-zone", [node(4, zone="a"), node(4, zone="b", role="decode")]),
    ],
)
def test_nodes_that_no_label_tells_apart_are_one_place(close_by, nodes):
    assert choose_zone(runtime(close_by=close_by), nodes, 4) is None
    assert set(group_zones(runtime(workers=2, close_by=close_by), nodes, "A trial")) == {None}


def test_trials_are_counted_zone_by_zone():
    nodes = [node(3, zone="a"), node(3, zone="b"), node(2, zone="b")]
    assert group_zones(runtime(workers=2), nodes, "A trial") == ["a", "b", "b"]
    assert group_zones(runtime(workers=6), nodes, "A trial") == [None]  # over zones, as no one holds it
    assert len(group_zones(runtime(workers=2, close_by=None), nodes, "A trial")) == 4


def test_a_zone_of_gpus_is_counted_by_its_gpus():
    nodes = [node(16, 1, zone="a"), node(4, 4, zone="b")]
    assert choose_zone(runtime(workers=2, device="cuda"), nodes, 2) == "b"
    assert choose_zone(runtime(workers=2, device="cpu"), nodes, 2) == "a"
