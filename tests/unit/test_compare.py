import json

import pytest

from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.config.tree import build, load_config
from tune.compare import check_metric, compare, plain_metric, short_keys
from tune.ledger import Ledger, Trial

METRIC = "dev/t2v/R@1"
IB, TR, FORM = (
    "objective.information_bottleneck.weight",
    "objective.trust_region.weight",
    "objective.trust_region.form",
)
SPACE = {IB: {"loguniform": [1e-6, 1e-2]}, TR: {"grid": [0, 1e-4, 0.01]}, FORM: {"choice": ["hard", "smooth"]}}


def sweep_config(**changes):
    return build({"sweep": {"space": SPACE} | changes, "runtime": {"name": "weights"}})


def trial(number, score, status="done", **overrides):
    values = {IB: 1e-4, TR: 0.01, FORM: "hard"} | overrides
    metrics = {} if score is None else {METRIC: score, "dev/t2v/MdR": 100 - score}
    error = "RunError: it broke" if status == "failed" else None
    return Trial(f"trial-{number:03d}", values, f"/runs/weights/trial-{number:03d}", status, metrics, None, error, 12.0)


def write(folder, trials, config=None):
    config = config or sweep_config()
    Ledger(name="weights", key="k", config=config.model_dump(mode="json"), trials=trials).write(folder)


def test_best_first_and_failed_trials_last_without_a_rank(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, None, "failed"), trial(2, 30.0), trial(3, 20.0, "stopped")])
    found = compare(tmp_path)
    columns, rows = found.table()
    assert [row[:3] for row in rows] == [
        ["1", "trial-002", "30.00"],
        ["2", "trial-003", "20.00"],
        ["3", "trial-000", "10.00"],
        ["", "trial-001", "-"],
    ]
    assert columns[3:6] == ["information_bottleneck.weight", "trust_region.form", "trust_region.weight"]
    assert json.dumps(found.as_json(), allow_nan=False)


def test_a_metric_that_is_better_lower_ranks_the_lowest_first(tmp_path):
    config = sweep_config(metric="dev/t2v/MdR", mode="min")
    write(tmp_path, [trial(0, 10.0), trial(1, 30.0)], config)
    assert compare(tmp_path).best.name == "trial-001"


def test_equal_scores_keep_the_order_of_the_trials(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, 10.0)])
    assert [t.name for t in compare(tmp_path).ranked] == ["trial-000", "trial-001"]


def test_best_config_is_a_complete_experiment_that_train_accepts(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, 30.0, **{IB: 3e-5, FORM: "smooth"})])
    best = load_config(compare(tmp_path).best_config)
    assert best.objective.information_bottleneck.weight == 3e-5
    assert best.objective.trust_region.form == "smooth"
    assert best.runtime.name is None
    assert best.sweep == Config().sweep


def test_plot_is_a_png_and_out_keeps_the_sweep_folder_as_it_is(tmp_path):
    sweep, out = tmp_path / "sweep", tmp_path / "report"
    sweep.mkdir()
    write(sweep, [trial(0, 10.0), trial(1, 30.0, **{TR: 0})])
    found = compare(sweep, out)
    assert found.plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["best.yaml", "sensitivity.png"]
    assert [path.name for path in sweep.iterdir()] == ["sweep.json"]


def test_a_sweep_with_nothing_to_rank_writes_no_files(tmp_path):
    write(tmp_path, [trial(0, None, "failed")])
    found = compare(tmp_path)
    assert (found.best, found.plot, found.best_config) == (None, None, None)
    assert found.table()[1][0][-1] == "failed"


def test_a_folder_without_a_sweep_and_a_damaged_record_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"holds no sweep\.json"):
        compare(tmp_path)
    (tmp_path / "sweep.json").write_text('{"version": 1, "name": 3}')
    with pytest.raises(InputError, match="damaged"):
        compare(tmp_path)
    (tmp_path / "sweep.json").write_text('{"version": 99}')
    with pytest.raises(InputError, match="version 99"):
        compare(tmp_path)


def test_metric_and_mode_that_would_pick_the_worst_are_refused():
    check_metric(sweep_config())
    with pytest.raises(ConfigError, match=r"dev/t2v/R@1"):
        check_metric(sweep_config(metric="dev/R@1"))
    with pytest.raises(ConfigError, match=r"sweep\.mode: min"):
        check_metric(sweep_config(metric="dev/v2t/MnR"))
    with pytest.raises(ConfigError, match=r"sweep\.mode: max"):
        check_metric(sweep_config(mode="min"))


def test_names_are_plain_and_short_but_never_ambiguous():
    assert plain_metric("dev/v2t/MdR") == "video-to-text median rank on dev"
    assert short_keys([IB, TR, "train.seed"]) == ["information_bottleneck.weight", "trust_region.weight", "train.seed"]
    assert short_keys(["a.b.c", "x.b.c"]) == ["a.b.c", "x.b.c"]
