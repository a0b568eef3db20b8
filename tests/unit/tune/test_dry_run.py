"""What a dry run says of a sweep, and that it leaves nothing behind."""

import json

import pytest

from gare.cli import main
from gare.common.errors import RunError
from gare.common.nodes import Node
from gare.config.tree import to_yaml, with_overrides
from gare.launch.local import TrainingCost, measure_cost
from tests.toy import make_shards, make_toy_clip, toy_config
from tune.dry_run import START_SECONDS, _suggested, make_plan, make_slots, makespan
from tune.opening import resolved
from tune.record import SweepRecord, Trial

IB = "objective.information_bottleneck.weight"
COST = TrainingCost("cpu", set_up_s=1.0, step_s=0.5, steps=5, dev_s=2.0, dev_videos=4)
NODE = Node({"CPU": 4.0})


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    shards = make_shards(folder / "shards", {"train": 9, "dev": 4})
    return folder, shards, make_toy_clip(folder / "clip")


@pytest.fixture
def config(places, tmp_path):
    _, shards, clip = places
    return with_overrides(
        toy_config(clip, shards, tmp_path / "runs"),
        {
            "runtime.name": "s",
            "sweep.cases": {"none": {IB: 0.0}, "all": {}},
            "sweep.seeds": [0, 1],
        },
    )


def plan(config, nodes=(NODE,), **named):
    return make_plan(config, list(nodes), measured=lambda _: COST, **named)


def test_the_trials_their_steps_and_their_time(config):
    found = plan(config)
    assert [(t.name, t.case, t.overrides["train.seed"]) for t in found.trials] == [
        ("trial-000", "none", 0), ("trial-001", "all", 0), ("trial-002", "none", 1), ("trial-003", "all", 1),
    ]  # fmt: skip
    assert {(t.steps, t.epochs) for t in found.trials} == {(8, 2)}  # 18 captions in batches of 4, twice
    each = START_SECONDS + 1.0 + 8 * 0.5 + 2 * 2.0
    assert [t.seconds for t in found.trials] == [each] * 4
    assert found.slots.at_once == 4
    assert found.seconds == each
    assert plan(config, [Node({"CPU": 3.0})]).seconds == 2 * each
    json.dumps(found.as_json(), allow_nan=False)


def test_a_trial_of_other_size_is_counted_as_such(config):
    space = {"train.epochs": {"grid": [1, 2]}, "train.global_batch": {"grid": [2, 4]}}
    found = plan(with_overrides(config, {"sweep.cases": {}, "sweep.seeds": None, "sweep.space": space}))
    seconds = {(t.overrides["train.epochs"], t.overrides["train.global_batch"]): t.seconds for t in found.trials}
    start = START_SECONDS + 1.0
    assert seconds == {
        (1, 2): start + 9 * 0.25 + 2.0, (1, 4): start + 4 * 0.5 + 2.0,
        (2, 2): start + 18 * 0.25 + 4.0, (2, 4): start + 8 * 0.5 + 4.0,
    }  # fmt: skip


def test_draws_that_repeat_one_another_are_counted(config):
    drawn = with_overrides(config, {"sweep.trials": 5, "sweep.space": {"train.lr_new": {"choice": [0.1, 0.2]}}})
    found = plan(drawn)
    assert len(found.trials) == 8
    assert any("12 drawn trials repeat the settings of others" in remark for remark in found.remarks)
    assert not any("repeat" in remark for remark in plan(config).remarks)


def test_what_is_done_is_left_out_and_what_a_searcher_will_name_is_counted(config, tmp_path):
    searched = with_overrides(
        config,
        {
            "sweep.cases": {}, "sweep.seeds": [0, 1, 2], "sweep.search": "optuna", "sweep.confirm": 2,
            "sweep.trials": 5, "sweep.space": {IB: {"uniform": [0.0, 1.0]}},
        },
    )  # fmt: skip
    found = plan(searched)
    assert (found.trials, found.suggested, found.done) == ([], 5 + 2 * 2, 0)
    assert _suggested(searched, 2) == ["search"] * 3 + ["confirm"] * 4
    assert _suggested(searched, 9) == ["confirm"] * 4
    first = plan(config)
    rows = [
        Trial(t.name, t.overrides, "", "done" if n < 3 else "running", case=t.case) for n, t in enumerate(first.trials)
    ]
    SweepRecord("s", "k", resolved(config).model_dump(mode="json"), rows).write(tmp_path / "runs" / "s")
    rest = plan(config)
    assert ([t.name for t in rest.trials], rest.done) == (["trial-003"], 3)


def test_how_many_at_a_time_and_why(config):
    slots = make_slots(with_overrides(config, {"runtime.workers": 2}), [Node({"CPU": 3.0}), Node({"CPU": 2.0})])
    assert slots.at_once == 2
    assert slots.resources == {"CPU": 2.0}
    assert slots.why == "3 + 2 CPUs: room for 5 workers of 1 CPU; a trial has 2: 2 at a time"
    slots = make_slots(with_overrides(config, {"sweep.max_concurrent": 1}), [Node({"CPU": 8.0, "GPU": 2.0})])
    assert slots.resources == {"CPU": 1.0, "GPU": 1.0}
    assert slots.why.endswith(
        "2 GPUs: room for 2 workers of 1 CPU and a GPU; a trial has 1: 2 at a time, and 1 by sweep.max_concurrent"
    )
    zones = [Node({"CPU": 3.0}, {"ray.io/availability-zone": zone}) for zone in "ab"]
    slots = make_slots(with_overrides(config, {"runtime.workers": 2}), zones)
    assert slots.at_once == 2
    assert "room for 6 workers of 1 CPU; a trial has 2, all in one ray.io/availability-zone: 2 at a time" in slots.why
    with pytest.raises(RunError, match="A trial needs 2 workers"):
        make_slots(with_overrides(config, {"runtime.workers": 2}), [Node({"CPU": 1.0})])


def test_places_are_taken_as_they_become_free():
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_a_step_is_measured_on_the_shards_and_nothing_is_written(config, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in places[0].rglob("*")}
    cost = measure_cost(config)
    assert cost.steps == 5
    assert cost.step_s > 0
    assert cost.dev_s > 0
    assert (cost.device, cost.dev_videos) == ("cpu", 4)
    assert measure_cost(with_overrides(config, {"train.epochs": 1})).steps == 3
    assert measure_cost(with_overrides(config, {"protocol.dev": "none"})).dev_s == 0
    assert {path: path.stat().st_mtime_ns for path in places[0].rglob("*")} == before
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_it_in_words_and_as_json(config, tmp_path, capfd):
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    with pytest.raises(SystemExit, match="0"):
        main(["sweep", str(file), "--dry-run"])
    said = capfd.readouterr().out
    assert "a trial has 1" in said
    assert "Nothing was written" in said
    sweep = tmp_path / "alpha.yaml"
    sweep.write_text("sweep: {space: {objective.direction_diversity.alpha: {grid: [1.0, 2.0]}}}\n")
    with pytest.raises(SystemExit, match="0"):
        main(["sweep", str(file), "--sweep", str(sweep), "--dry-run", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert [t["overrides"] for t in found["trials"]] == [{"objective.direction_diversity.alpha": a} for a in (1.0, 2.0)]
    assert found["seconds"] > 2 * START_SECONDS / found["slots"]["at_once"]
    assert not (tmp_path / "runs").exists()
