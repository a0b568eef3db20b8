"""Ray Train's controller in this process: what is stopped or killed gives its room back, without Ray's dashboard."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import ray
from ray import cloudpickle
from ray.train import UserCallback
from ray.util.placement_group import placement_group, placement_group_table

from gare.common.errors import RunError
from gare.common.files import write_json
from gare.launch import ray_train
from gare.launch.ray_controller import PLACEMENT_FILE, StoppedError, release
from gare.launch.ray_ranks import RankGroup
from gare.launch.ray_train import fit
from gare.runs.layout import run_directory
from gare.runs.state import read_state

pytestmark = pytest.mark.ray


# Ray's workers cannot import test modules.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class StopAfterOneEpoch(UserCallback):
    """Asks training to stop when it hears of an epoch."""

    def __init__(self, stop):
        self.stop = stop

    def __reduce__(self):
        return UserCallback, ()

    def after_report(self, run_context, metrics, checkpoint):
        del run_context, metrics, checkpoint
        self.stop.set()


@ray.remote(num_cpus=0)
class Host:
    """A process as a sweep has for its trials."""

    def stopped_early(self, config):
        stop = threading.Event()
        try:
            fit(config, callbacks=[StopAfterOneEpoch(stop)], quiet=True, stop=stop)
        except StoppedError:
            return True
        return False

    def fit(self, config):
        return fit(config, quiet=True, stop=threading.Event())

    def never_meets(self, config):
        class Lost(RankGroup):
            @property
            def backend_cls(self):
                class Backend(super().backend_cls):
                    def on_start(self, *_):
                        raise RuntimeError("the ranks do not find each other")

                return Backend

        ray_train.RankGroup = Lost
        try:
            fit(config, quiet=True, stop=threading.Event())
        except RunError as error:
            return str(error)


def given_back(seconds=20.0):
    """Whether all CPUs of the cluster are free again in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.1)
    return False


def states():
    return {group["state"] for group in placement_group_table().values()}


@pytest.mark.slow
def test_a_run_that_is_stopped_gives_its_room_back_and_goes_on_later(ray_cluster, toy_run):
    config = toy_run("train.epochs=12")
    host = Host.remote()
    assert ray.get(host.stopped_early.remote(config))
    assert given_back()
    assert states() <= {"REMOVED"}
    reached = read_state(run_directory(config))
    assert 0 < reached.epoch < 12
    assert not reached.finished

    summary = ray.get(host.fit.remote(config))
    assert summary.epochs == 12
    assert summary.resumed_from >= reached.epoch
    assert given_back()


@pytest.mark.slow
def test_ranks_that_never_meet_give_their_room_back(ray_cluster, toy_run):
    host = Host.remote()
    assert "do not find each other" in ray.get(host.never_meets.remote(toy_run("runtime.max_failures=0")))
    assert given_back()


def test_the_room_of_a_killed_process_is_freed_by_its_note(ray_cluster, tmp_path):
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    write_json(tmp_path / PLACEMENT_FILE, {"id": group.id.hex()})
    release(tmp_path)
    assert given_back()
    assert not (tmp_path / PLACEMENT_FILE).exists()
    write_json(tmp_path / PLACEMENT_FILE, {"id": group.id.hex()})
    release(tmp_path)  # it is gone already
    (tmp_path / PLACEMENT_FILE).write_text("{")
    release(tmp_path)  # half a note, of a process killed while it wrote
    release(tmp_path / "nowhere")
