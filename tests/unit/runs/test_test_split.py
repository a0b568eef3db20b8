"""``protocol.test``: nothing is trained on test or chosen by it, unless the settings say so and everybody hears it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gare.cli import main
from gare.common.errors import ConfigError
from gare.common.files import digest_of
from gare.config import LATER, NOT_THE_EXPERIMENT, Config
from gare.config import yaml as config_yaml
from gare.config.experiment import names_test
from gare.config.tree import load_config, load_saved, to_yaml, with_overrides
from gare.launch.dry_run.plan import make_plan
from gare.launch.local import fit_local
from gare.model.checkpoint import load_checkpoint_config
from gare.runs.run import _names, open_run
from gare.runs.state import read_state, write_state
from tests import toy
from tests.unit.tune.made_sweep import seeds, sweep_config, write
from tune.comparison import compare
from tune.space import expand

USED = ("data.dev_split=test", "protocol.test=used")


@pytest.fixture(scope="module")
def used(toy_clip, toy_shards, tmp_path_factory):
    """The folder of a finished run whose checkpoint was chosen on test, as its settings say."""
    folder = tmp_path_factory.mktemp("used")
    config = toy.toy_config(toy_clip, toy_shards, folder, *USED, "train.epochs=1", "runtime.tracking=false")
    return Path(fit_local(config, quiet=True).directory)


def gare(capfd, *arguments):
    """A command's result and what it said, which must be an exit without an error."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    found = capfd.readouterr()
    assert not ended.value.code, found.err
    return json.loads(found.out), " ".join(found.err.split())


def forgotten(folder):
    """A YAML file of settings as they were saved before protocol.test existed."""
    values = config_yaml.read(folder)
    del values["protocol"]["test"]
    folder.write_text(config_yaml.dump(values))
    return values


def test_the_word_changes_no_name_so_an_unnamed_run_of_an_older_version_is_found_with_it():
    chosen = with_overrides(Config(), {"data.dev_split": "test", "protocol.test": "used"})
    tree = chosen.experiment()
    assert "test" not in tree["protocol"]
    assert chosen.run_name() == digest_of(tree) != Config().run_name()
    assert with_overrides(Config(), {"protocol.test": "used"}).run_name() == Config().run_name()


@pytest.mark.parametrize("name", ["dev_split", "train_split"])
@pytest.mark.parametrize(
    "split", ["test", "Test", " TEST", "test_1k", "jsfusion-test", "1ktest", "devtest", "tests", "\uff54est"]
)
def test_a_test_split_by_any_spelling_neither_trains_nor_chooses(name, split):
    with pytest.raises(ConfigError, match=rf"data\.{name} is .*measures nothing; name another split, or set protocol"):
        load_config(None, [f"data.{name}={json.dumps(split)}"])
    assert with_overrides(Config(), {f"data.{name}": split, "protocol.test": "used"}).protocol.test == "used"


def test_other_splits_are_free_to_choose_by():
    assert not any(
        names_test(split) for split in ("dev", "val", "val_1", "latest", "contest", "testimonials", "train", "")
    )


def test_the_commands_refuse_it_in_a_sentence(toy_shards, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text("{}")
    for command in (
        ["train", "toy.yaml", "--set", "data.dev_split=test"],
        ["train", "toy.yaml", "--dry-run", "--set", "data.train_split=Test"],
        ["sweep", "toy.yaml", "--dry-run", "--set", "data.dev_split=test"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        assert "measures nothing" in " ".join(capfd.readouterr().err.split())


def test_a_sweep_cannot_bring_it_in_by_a_trial():
    for where in (
        {"space": {"data.dev_split": {"grid": ["dev", "test"]}}},
        {"cases": {"a": {"data.dev_split": "val"}}},
    ):
        with pytest.raises(
            ConfigError, match=r"data\.dev_split cannot be swept: it decides what trials are compared on"
        ):
            expand(sweep_config(**{"space": {}, **where}))
    with pytest.raises(ConfigError, match=r"data\.train_split .*measures nothing"):
        expand(sweep_config(space={"data.train_split": {"grid": ["train", "test"]}}))
    with pytest.raises(ConfigError, match=r"protocol\.test cannot be swept"):
        expand(sweep_config(space={"protocol.test": {"grid": ["held_out", "used"]}}))


def test_a_run_that_may_use_test_says_so_before_after_and_in_comparisons(used, toy_shards, tmp_path, capfd):
    says = "so its figures on test say little about new videos"
    config = load_checkpoint_config(next((used / "checkpoints").iterdir()))
    assert config.protocol.test == "used"
    assert any(says in remark for remark in make_plan(config).remarks)
    assert not any(says in remark for remark in make_plan(with_overrides(Config(), {})).remarks)
    for split in ("test", "dev"):
        measured = ("--shards", toy_shards, "--split", split, "--resamples", 0, "--out", tmp_path / split)
        result, heard = gare(capfd, "evaluate", used, *measured)
        assert says in result["selection"]["cautions"][0]
        assert says in heard
        assert says in (tmp_path / split / "report.html").read_text()
    _, heard = gare(capfd, "compare", tmp_path / "test", tmp_path / "test", "--resamples", 100)
    assert all(f"{side}: The run was free to train on the test split" in heard for side in "AB")


def test_an_override_does_not_hide_what_was_trained_on(used, toy_shards, tmp_path, capfd):
    arguments = ("--shards", toy_shards, "--resamples", 0, "--no-report", "--out", tmp_path / "out")
    hiding = ("--set", "data.train_split=other", "--set", "data.dev_split=dev")
    result, _ = gare(capfd, "evaluate", used, "--split", "train", *arguments, *hiding)
    assert "trained on these videos" in result["selection"]["cautions"][1]


def test_the_comparison_of_such_a_sweep_says_it(tmp_path):
    for name, changes in (("held", {}), ("used", {"data.dev_split": "test", "protocol.test": "used"})):
        found = compare(write(tmp_path / name, seeds(0, [10.0, 11.0]), with_overrides(sweep_config(), changes)))
        heard = any("free to train on the test split" in caution for caution in found.cautions())
        assert heard == (name == "used") == ("free to train on the test split" in found.page.read_text())
        assert json.loads(found.data.read_text())["protocol_test"] == ("used" if heard else "held_out")


def test_weights_that_have_seen_test_do_not_begin_a_run_that_may_not(used, toy_run):
    with pytest.raises(ConfigError, match=r"begin with another checkpoint, or set protocol\.test=used"):
        fit_local(toy_run(f"train.init_from={used}"), quiet=True)
    assert fit_local(toy_run(f"train.init_from={used}", "protocol.test=used", "train.epochs=1"), quiet=True).steps


def test_what_an_older_version_chose_on_test_still_loads_and_is_told_apart(used, tmp_path):
    folder = shutil.copytree(used, tmp_path / "old")
    checkpoint = next((folder / "checkpoints").iterdir())
    forgotten(checkpoint / "config.yaml")
    assert load_checkpoint_config(checkpoint).protocol.test == "used"
    plain = tmp_path / "plain.yaml"
    plain.write_text(to_yaml(Config()))
    forgotten(plain)
    assert load_saved(plain).protocol.test == "held_out"


def test_names_of_older_versions_are_as_few_as_what_came_later():
    config = with_overrides(Config(), {"train.tf32": True, "prepare.square_pixels": False})
    values = config.model_dump(mode="json")
    names = _names(values)
    assert config.digest() in names
    assert len(names) <= len(LATER) + 1
    tree = {name: dict(value) for name, value in values.items() if name not in NOT_THE_EXPERIMENT}
    del tree["train"]["deterministic"]  # left out at its default, as tf32 would have been
    assert digest_of(tree) in names


def test_a_run_of_an_older_version_goes_on_where_only_a_setting_with_its_default_is_new(used, tmp_path):
    config = with_overrides(load_saved(used / "config.yaml"), {"runtime.output": str(tmp_path), "runtime.name": "old"})
    folder = shutil.copytree(used, tmp_path / "old")
    values = forgotten(folder / "config.yaml")
    state = read_state(folder)
    state.config_digest = digest_of({name: value for name, value in values.items() if name not in NOT_THE_EXPERIMENT})
    write_state(folder, state)
    assert open_run(config, state.dataset_digest).epoch == 1
    with pytest.raises(ConfigError, match=r"another experiment \(train\.lr_new differ\)"):
        open_run(with_overrides(config, {"train.lr_new": 0.5}), state.dataset_digest)
    # Versions between named it otherwise: with the setting, but without those that were added beside it.
    values["protocol"]["test"] = "used"
    (folder / "config.yaml").write_text(config_yaml.dump(values))
    tree = {name: value for name, value in values.items() if name not in NOT_THE_EXPERIMENT}
    for section, key in (("prepare", "square_pixels"), ("train", "tf32"), ("train", "deterministic")):
        tree[section] = {name: value for name, value in tree[section].items() if name != key}
    state.config_digest = digest_of(tree)
    write_state(folder, state)
    assert open_run(config, state.dataset_digest).epoch == 1
    # Settings changed by hand beneath a finished run are no older version.
    values["train"]["lr_new"] = 0.5
    (folder / "config.yaml").write_text(config_yaml.dump(values))
    with pytest.raises(ConfigError, match=r"another experiment \(run\.json differ\)"):
        open_run(with_overrides(config, {"train.lr_new": 0.5}), state.dataset_digest)


FORMER = {
    "prepare": {"square_pixels": True},
    "train": {"tf32": False, "deterministic": False},
    "protocol": {"test": "held_out"},
}


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize("test", ["held_out", "used"])
@pytest.mark.parametrize("tf32", [True, False])
def test_runs_of_the_version_before_keep_their_name_whatever_their_settings(pixels, test, tf32):
    config = with_overrides(Config(), {"train.tf32": tf32, "prepare.square_pixels": pixels, "protocol.test": test})
    values = config.model_dump(mode="json")
    saved = {name: dict(part) for name, part in values.items() if name not in NOT_THE_EXPERIMENT}
    for name in ("head", "attention_heads"):
        del values["model"][name], saved["model"][name]
    for section, keys in FORMER.items():
        for key, default in keys.items():
            if saved[section][key] == default:
                del saved[section][key]
    assert digest_of(saved) in _names(values)
