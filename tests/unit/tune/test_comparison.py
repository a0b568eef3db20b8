"""The ranking of a sweep: seeds are repeats, and nothing that did not end well counts."""

import json

import pytest

from gare.cli import main
from gare.common.errors import ConfigError, InputError
from gare.config import Config
from gare.config.tree import load_config
from tests.unit.tune.made_sweep import FORM, IB, METRIC, TR, seeds, sweep_config, trial, write, write_history
from tune.comparison import check_metric, compare, plain_metric, short_keys
from tune.record import Launch, SweepRecord


def test_best_first_and_failed_trials_last_without_a_rank(tmp_path):
    trials = [trial(0, 10.0), trial(1, None, "failed", **{IB: 2e-4}), trial(2, 30.0, **{IB: 3e-4})]
    write(tmp_path, [*trials, trial(3, 20.0, "stopped", **{IB: 4e-4})])
    found = compare(tmp_path)
    columns, rows = found.table()
    assert [row[:3] for row in rows] == [
        ["1", "trial-002", "30.00"],
        ["2", "trial-003", "20.00"],
        ["3", "trial-000", "10.00"],
        ["", "trial-001", "-"],
    ]
    assert columns[5:8] == ["information_bottleneck.weight", "trust_region.form", "trust_region.weight"]
    assert [row[-1] for row in rows] == ["done", "stopped", "done", "failed"]
    assert [each.name for each in found.failed] == ["trial-001"]


def test_seeds_are_repeats_of_one_setting(tmp_path):
    write(tmp_path, [*seeds(0, [10.0, 12.0, 14.0]), *seeds(3, [11.0, 12.0, 10.0], **{TR: 0})])
    found = compare(tmp_path)
    assert [list(setting.scores.values()) for setting in found.ranked] == [[10.0, 12.0, 14.0], [11.0, 12.0, 10.0]]
    best = found.ranked[0]
    # Student's t with two degrees of freedom: 4.3027 standard errors, of 2 / sqrt(3) here.
    assert best.estimate.mean == 12.0
    assert best.interval == pytest.approx((12 - 4.9683, 12 + 4.9683), abs=1e-3)
    assert found.best.name == "trial-002"  # the best trial of the best setting
    assert best.status == "3 done"
    assert "train.seed" not in found.keys


def test_the_best_setting_is_the_one_whose_seeds_are_best_together(tmp_path):
    write(tmp_path, [*seeds(0, [10.0, 50.0]), *seeds(2, [40.0, 41.0], **{TR: 0})])
    assert compare(tmp_path).best.overrides[TR] == 0


def test_a_sweep_without_seeds_has_the_seed_of_the_experiment(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, 20.0, **{"train.seed": 1})])
    setting = compare(tmp_path).ranked[0]
    assert setting.scores == {Config().train.seed: 10.0, 1: 20.0}


def test_seeds_that_were_stopped_or_failed_leave_no_interval_to_trust(tmp_path):
    stopped = [trial(0, 10.0), trial(1, 5.0, "stopped", **{"train.seed": 1}), trial(2, 9.0, **{"train.seed": 2})]
    write(tmp_path, [*stopped, *seeds(3, [9.0, 10.0, 11.0], **{TR: 0})])
    found = compare(tmp_path)
    cut = next(setting for setting in found.ranked if setting.cut)
    assert cut.interval is None
    assert {each.verdict for each in found.against} == {"unknown"}
    assert "stopped early" in found.against[0].says


def test_a_metric_that_is_better_lower_ranks_the_lowest_first_and_words_follow(tmp_path):
    config = sweep_config(metric="dev/t2v/MdR", mode="min")
    write(tmp_path, [*seeds(0, [10.0, 11.0, 12.0]), *seeds(3, [30.0, 31.5, 32.0], **{TR: 0})], config)
    found = compare(tmp_path)
    assert found.best.name == "trial-005"
    assert found.against[0].verdict == "worse"
    # By hand: 20.167 apart with a standard deviation of 0.289, so +- 4.3027 x 0.289 / sqrt(3).
    assert found.against[0].says == "trial-000 is worse than trial-003 by 20.17 (19.45 to 20.88), 3 seeds."


def test_equal_scores_keep_the_order_of_the_trials(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, 10.0, **{TR: 0})])
    assert [setting.label for setting in compare(tmp_path).ranked] == ["trial-000", "trial-001"]


def test_confirmed_settings_come_before_a_lucky_seed_and_their_first_seed_is_told_apart(tmp_path):
    config = sweep_config(search="optuna", trials=2, confirm=1, seeds=[0, 1, 2])
    lucky = trial(0, 90.0, **{"train.seed": 0})
    sound = seeds(1, [50.0, 40.0, 42.0], **{TR: 0})
    for each in sound[1:]:
        each.stage = "confirm"
    write(tmp_path, [lucky, *sound], config)
    found = compare(tmp_path)
    assert [setting.confirmed for setting in found.ranked] == [True, False]
    assert found.ranked[0].estimate.mean == pytest.approx(44.0)
    assert found.ranked[0].confirmed_mean == pytest.approx(41.0)
    assert any("flatters" in caution for caution in found.cautions())


def test_best_config_is_a_complete_experiment_that_train_accepts(tmp_path):
    write(tmp_path, [trial(0, 10.0), trial(1, 30.0, **{IB: 3e-5, FORM: "smooth"})])
    found = compare(tmp_path)
    assert found.as_json()["best_config"] == str(found.best_config) == str(tmp_path / "best.yaml")
    best = load_config(found.best_config)
    assert best.objective.information_bottleneck.weight == 3e-5
    assert best.objective.trust_region.form == "smooth"
    assert best.runtime.name is None
    assert best.sweep == Config().sweep


def test_out_keeps_the_sweep_folder_as_it_is(tmp_path):
    sweep, out = tmp_path / "sweep", tmp_path / "report"
    write(sweep, [trial(0, 10.0), trial(1, 30.0, **{TR: 0})])
    found = compare(sweep, out)
    assert sorted(path.name for path in out.iterdir()) == ["best.yaml", "comparison.html", "comparison.json"]
    assert sorted(found.files) == sorted(out.iterdir())
    assert [path.name for path in sweep.iterdir()] == ["sweep.json"]


def test_the_data_behind_every_picture_is_in_the_json(tmp_path):
    write(
        tmp_path, [*seeds(0, [10.0, 12.0]), *seeds(2, [20.0, 21.0], **{TR: 0}), trial(4, None, "failed", **{TR: 1e-4})]
    )
    history = [{"step": 1, "train/loss": 2.0}, {"step": 2, "epoch": 1, METRIC: 7.0}, {"step": 3, "train/loss": None}]
    write_history(tmp_path, "trial-000", history)
    found = compare(tmp_path)
    data = json.loads(found.data.read_text())
    assert data["settings"][0]["scores"] == {"0": 20.0, "1": 21.0}
    assert data["settings"][0]["values"] == {IB: 1e-4, TR: 0, FORM: "hard"}
    assert data["curves"] == [{"trial": "trial-000", "status": "done", "metric": [[1.0, 7.0]], "loss": [[1.0, 2.0]]}]
    assert data["differences"][0]["difference"]["n"] == 2
    assert data["cost"]["train_s"] == 45.0
    assert data["cost"]["idle"] == pytest.approx(0.25)
    assert [each["rank"] for each in data["trials"]] == [1, 1, 2, 2, None]
    assert json.dumps(found.as_json(), allow_nan=False)


def test_a_sweep_with_nothing_to_rank_has_a_page_and_no_best_config(tmp_path):
    write(tmp_path, [trial(0, None, "failed")])
    found = compare(tmp_path)
    assert (found.best, found.best_config, found.as_json()["best_config"]) == (None, None, None)
    assert not (tmp_path / "best.yaml").exists()
    assert found.table()[1][0][-1] == "failed"
    assert "No trial has a result to compare yet." in found.page.read_text()


def test_a_case_that_changes_nothing_is_the_baseline_and_another_can_be_named(tmp_path):
    cases = {"plain": {}, "bottleneck": {IB: 0.1}, "both": {IB: 0.1, TR: 0.1}}
    config = sweep_config(space={}, cases=cases, seeds=[0, 1, 2])
    trials = [
        each
        for place, (name, values) in enumerate(cases.items())
        for each in seeds(3 * place, [10.0 + place, 12.0 + 2 * place, 11.0 + place], case=name, only=True, **values)
    ]
    write(tmp_path, trials, config)
    found = compare(tmp_path)
    assert found.reference == "plain"
    assert [each.setting.label for each in found.against] == ["both", "bottleneck"]
    assert found.keys == []
    other = compare(tmp_path, baseline="both")
    assert {each.reference.label for each in other.against} == {"both"}
    with pytest.raises(ConfigError, match="no case or trial 'none' to compare with; there are both, bottleneck, plain"):
        compare(tmp_path, baseline="none")


def test_cases_over_a_space_are_compared_where_the_space_is_the_same(tmp_path):
    config = sweep_config(space={TR: {"grid": [0, 0.1]}}, cases={"plain": {}, "bottleneck": {IB: 0.1}}, seeds=[0, 1])
    trials = []
    for weight in (0, 0.1):
        trials += seeds(len(trials), [10.0 + weight, 11.0], case="plain", only=True, **{TR: weight})
        trials += seeds(len(trials), [13.0, 14.5], case="bottleneck", only=True, **{IB: 0.1, TR: weight})
    write(tmp_path, trials, config)
    found = compare(tmp_path)
    assert len(found.against) == 2
    assert all(each.reference.values[TR] == each.setting.values[TR] for each in found.against)


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


def test_two_seeds_are_too_few_to_claim_anything(tmp_path):
    write(tmp_path, [*seeds(0, [10.0, 12.0]), *seeds(2, [30.0, 32.1], **{TR: 0})])
    found = compare(tmp_path).against[0]
    assert found.found.p < 0.01
    assert (found.verdict, found.adjusted) == ("unknown", None)
    assert found.says.endswith("2 seeds: too few to tell.")


def test_a_case_is_better_than_the_baseline_in_words(tmp_path):
    config = sweep_config(space={}, cases={"plain": {}, "bottleneck": {IB: 0.1}}, seeds=[0, 1, 2])
    plain = seeds(0, [30.0, 31.0, 32.0], case="plain", only=True)
    write(tmp_path, plain + seeds(3, [32.0, 33.1, 34.2], case="bottleneck", only=True, **{IB: 0.1}), config)
    # By hand: differences of 2, 2.1 and 2.2, so 2.1 +- 4.3027 x 0.1 / sqrt(3).
    assert compare(tmp_path).against[0].says == "bottleneck is better than plain by 2.10 (1.85 to 2.35), 3 seeds."


def test_the_command_says_what_the_seeds_show_and_names_its_files(tmp_path, capfd):
    cases = {"plain": {}, "bottleneck": {IB: 0.1}}
    trials = seeds(0, [30.0, 31.0, 32.0], case="plain", only=True)
    trials += seeds(3, [32.0, 33.1, 34.2], case="bottleneck", only=True, **{IB: 0.1})
    write(
        tmp_path, [*trials, trial(6, None, "failed", case="broken", **{IB: 0.2})], sweep_config(space={}, cases=cases)
    )
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path), "--baseline", "bottleneck"])
    said = capfd.readouterr()
    assert not ended.value.code
    assert "plain is worse than bottleneck by 2.10 (1.85 to 2.35), 3 seeds." in said.out
    assert "trial-006 failed: RunError: it broke" in said.err
    assert all(str(tmp_path / name) in said.out for name in ("best.yaml", "comparison.html", "comparison.json"))
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path), "--baseline", "nothing"])
    assert ended.value.code == 2


def test_a_baseline_without_a_result_leaves_the_question_open(tmp_path):
    config = sweep_config(space={}, cases={"plain": {}, "bottleneck": {IB: 0.1}})
    trials = [
        trial(0, None, "pending", case="plain", only=True),
        trial(1, 9.0, case="bottleneck", only=True, **{IB: 0.1}),
    ]
    found = compare(write(tmp_path, trials, config))
    assert found.reference == "plain"
    assert found.against[0].says == "bottleneck has one seed: whether it differs from plain is open."


def test_the_cost_of_a_sweep_at_work_makes_no_overhead(tmp_path):
    write(tmp_path, [trial(0, 9.0), trial(1, None, "running", **{TR: 0})])
    record = SweepRecord.read(tmp_path)
    record.launches = [Launch(slots=2, wall_s=18.0)]
    record.write(tmp_path)
    assert compare(tmp_path).cost.overhead is None
    record.trials[1].status = "stopped"
    record.write(tmp_path)
    assert compare(tmp_path).cost.overhead == pytest.approx(2 * 18 / 18 - 1)
