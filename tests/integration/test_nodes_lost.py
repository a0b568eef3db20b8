"""Nodes that are killed, cut off or slow while they prepare, train and sweep: machines of their own, in namespaces."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gare.launch.local import fit_local
from tests.nodes.cluster import RayMachines, ray_machines
from tests.nodes.machines import Machine, leftovers, wait_for, why_not
from tests.nodes.work import RUN, SWEEP, VIDEOS, Data, epochs_done, prepared, same_weights, steps, units_done
from tune.record import SweepRecord
from tune.trial import trial_config

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "machines can be made here"),
]
NODES = 3
SECONDS = 300.0
RANK, TRIAL, DECODER = "RayTrainWorker", "ResourceTrainable", "decode_worker"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Videos, shards and a model."""
    made = Data(tmp_path_factory.mktemp("nodes"))
    made.make()
    return made


@pytest.fixture(scope="module")
def machines(data):
    """A head and three nodes; all that was started is gone afterwards."""
    with ray_machines(data.folder, NODES) as made:
        yield made
    wait_for(lambda: not leftovers(), 30, "the end of all machines")


@pytest.fixture
def cluster(machines):
    """The same, with others in the place of nodes that a test before has lost."""
    machines.nodes = [node for node in machines.nodes if node.up]
    if len(machines.nodes) < NODES:
        machines.add_nodes(NODES - len(machines.nodes))
    return machines


@pytest.fixture(scope="module")
def whole_dataset(data):
    """What gare prepare makes where nothing happens."""
    data.prepare_here(data.folder / "whole")
    return prepared(data.folder / "whole")


@pytest.fixture(scope="module")
def whole_run(data, machines):
    """A run of two ranks on two nodes where nothing happens."""
    return finished(machines, "whole-run", "train", data.file("whole-run", *RUN)) or data.folder / "runs" / "whole-run"


def start(cluster: RayMachines, name: str, *arguments: object):
    """Start a command on the head."""
    return cluster.head.start(cluster.gare(*arguments), {"RAY_ADDRESS": cluster.address}, cluster.log(name))


def finish(cluster: RayMachines, name: str, process) -> None:
    assert process.wait(timeout=SECONDS) == 0, cluster.log(name).read_text()[-3000:]


def finished(cluster: RayMachines, name: str, *arguments: object) -> None:
    finish(cluster, name, start(cluster, name, *arguments))


def at_work(cluster: RayMachines, words: str) -> list[Machine]:
    """The nodes with a process that has these words in its command line."""
    return [node for node in cluster.nodes if node.running(words)]


def one_at_work(cluster: RayMachines, words: str, reached: Callable[[], bool]) -> Machine:
    """A node at such work, once ``reached()``."""
    wait_for(lambda: reached() and bool(at_work(cluster, words)), SECONDS, f"the moment to lose a {words}")
    return at_work(cluster, words)[0]


def says(cluster: RayMachines, name: str) -> str:
    return cluster.log(name).read_text()


def test_prepare_spreads_over_the_nodes_and_loses_one_of_them(cluster, data, whole_dataset):
    out = data.folder / "lost"
    process = start(cluster, "prepare-lost", *data.prepare(out))
    wait_for(lambda: len(at_work(cluster, DECODER)) == NODES, SECONDS, "work on every node")
    lost = one_at_work(cluster, DECODER, lambda: units_done(out) >= 4)
    lost.kill()
    assert units_done(out) < VIDEOS
    finish(cluster, "prepare-lost", process)
    assert prepared(out) == whole_dataset


def test_prepare_with_a_node_that_is_slow(cluster, data, whole_dataset):
    out = data.folder / "slow"
    with cluster.nodes[0].slowed(working_s=0.2, standing_s=1.0):
        finished(cluster, "prepare-slow", *data.prepare(out))
    assert prepared(out) == whole_dataset


@pytest.mark.soak  # Ray Data takes two minutes to give up its connections to the node
def test_prepare_with_a_node_cut_off_that_goes_on(cluster, data, whole_dataset):
    out = data.folder / "off"
    process = start(cluster, "prepare-off", *data.prepare(out))
    cut = one_at_work(cluster, DECODER, lambda: units_done(out) >= 4)
    cut.cut()
    assert units_done(out) < VIDEOS
    finish(cluster, "prepare-off", process)
    assert cut.running(DECODER)  # it has written what it was at, and waits
    assert prepared(out) == whole_dataset
    cut.kill()


def test_two_ranks_on_two_nodes_are_those_of_one_machine(data, whole_run):
    here = fit_local(data.config("here", *RUN, "runtime.workers=1"), quiet=True)
    there = dict(steps(whole_run))
    assert there == pytest.approx(dict(steps(Path(here.directory))), rel=1e-3)


def test_training_loses_a_node(cluster, data, whole_run):
    run = data.folder / "runs" / "lost-run"
    process = start(cluster, "train-lost", "train", data.file("lost-run", *RUN))
    one_at_work(cluster, RANK, lambda: epochs_done(run) >= 3).kill()
    assert epochs_done(run) < epochs_done(whole_run)
    finish(cluster, "train-lost", process)
    assert steps(run) == steps(whole_run)
    assert same_weights(run, whole_run)


def test_a_sweep_loses_a_node(cluster, data):
    folder = data.folder / "runs" / "lost-sweep"
    process = start(cluster, "sweep-lost", "sweep", data.file("lost-sweep", *SWEEP))
    one_at_work(cluster, RANK, lambda: a_trial_has_epochs(folder)).kill()
    assert not all(trial.ended for trial in SweepRecord.read(folder).trials)
    finish(cluster, "sweep-lost", process)
    check_sweep(data, "lost-sweep")


def a_trial_has_epochs(folder: Path) -> bool:
    return any(epochs_done(trial) >= 2 for trial in folder.glob("*/"))


def check_sweep(data: Data, name: str) -> None:
    """Every trial is there once, and what it is alone."""
    trials = SweepRecord.read(data.folder / "runs" / name).trials
    weights = [trial.overrides["objective.trust_region.weight"] for trial in trials]
    assert (weights, [trial.status for trial in trials]) == ([0.0, 0.01, 0.02], ["done"] * 3)
    for trial in trials:
        alone = trial_config(data.config(f"alone-{name}", *SWEEP), trial.name, trial.overrides)
        whole = fit_local(alone, quiet=True)
        assert steps(Path(trial.directory)) == steps(Path(whole.directory))
        assert trial.metrics == whole.best_metrics


def test_a_network_that_is_cut_for_five_seconds_costs_nothing(cluster, data, whole_dataset, whole_run):
    run, out = data.folder / "runs" / "cut-run", data.folder / "cut"
    training = start(cluster, "train-cut", "train", data.file("cut-run", *RUN))
    cut = one_at_work(cluster, RANK, lambda: epochs_done(run) >= 2)
    ranks = cut.running(RANK)
    cut_for_five_seconds(cut)
    assert epochs_done(run) < epochs_done(whole_run)
    wait_for(lambda: epochs_done(run) > 12, SECONDS, "training after the cut")
    assert cut.running(RANK) == ranks
    finish(cluster, "train-cut", training)
    assert steps(run) == steps(whole_run)
    assert same_weights(run, whole_run)

    preparing = start(cluster, "prepare-cut", *data.prepare(out))
    cut = one_at_work(cluster, DECODER, lambda: units_done(out) >= 3)
    cut_for_five_seconds(cut)
    finish(cluster, "prepare-cut", preparing)
    assert prepared(out) == whole_dataset
    assert all(node.running("raylet") for node in cluster.nodes)


def cut_for_five_seconds(machine: Machine) -> None:
    machine.cut()
    time.sleep(5)
    machine.heal()


def test_a_node_cut_off_for_longer_is_lost_though_it_goes_on(cluster, data, whole_run):
    run = data.folder / "runs" / "off-run"
    process = start(cluster, "train-off", "train", data.file("off-run", *RUN))
    cut = one_at_work(cluster, RANK, lambda: epochs_done(run) >= 3)
    cut.cut()
    assert cut.running(RANK)
    finish(cluster, "train-off", process)
    assert steps(run) == steps(whole_run)
    assert same_weights(run, whole_run)
    assert not cut.running(RANK)  # it had ended by itself before another took its place
    cut.heal()
    wait_for(lambda: not cut.running("raylet"), 120, "the end of Ray on the lost node that is back")
    cut.kill()


def test_the_head_is_lost_in_the_middle_of_prepare(cluster, data, whole_dataset):
    out = data.folder / "headless"
    lose_the_head(cluster, "prepare-headless", lambda: units_done(out) >= 4, *data.prepare(out))
    assert not (out / "dataset.json").exists()
    finished(cluster, "prepare-again", *data.prepare(out))
    assert prepared(out) == whole_dataset


def test_the_head_is_lost_in_the_middle_of_training(cluster, data, whole_run):
    run, words = data.folder / "runs" / "headless-run", ("train", data.file("headless-run", *RUN))
    old = cluster.nodes
    lose_the_head(cluster, "train-headless", lambda: epochs_done(run) >= 3, *words)
    assert epochs_done(run) < epochs_done(whole_run)
    finished(cluster, "train-again", *words)
    assert steps(run) == steps(whole_run)
    assert same_weights(run, whole_run)
    assert not any(node.running(RANK) for node in old)  # they had ended by themselves before others took their place


def test_the_head_is_lost_in_the_middle_of_a_sweep(cluster, data):
    folder, words = data.folder / "runs" / "headless-sweep", ("sweep", data.file("headless-sweep", *SWEEP))
    lose_the_head(
        cluster, "sweep-headless", lambda: any(epochs_done(trial) >= 2 for trial in folder.glob("*/")), *words
    )
    assert not all(trial.ended for trial in SweepRecord.read(folder).trials)
    finished(cluster, "sweep-again", *words)
    check_sweep(data, "headless-sweep")


def lose_the_head(cluster: RayMachines, name: str, reached: Callable[[], bool], *arguments: object) -> None:
    """Start a command, turn the head off once ``reached()``, and put a new cluster there while the old nodes go on."""
    start(cluster, name, *arguments)
    wait_for(reached, SECONDS, "the moment to lose the head")
    cluster.head.kill()
    cluster.new_head()
    cluster.add_nodes(NODES)
