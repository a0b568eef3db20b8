"""The configuration tree: strict, documented, one vocabulary of dotted keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from gare.common.errors import ConfigError
from gare.config import Config
from gare.config.tree import build, describe, diff, flatten, load_config, to_yaml, with_overrides

ROOT = Path(__file__).parents[2]


def test_every_key_is_documented():
    docs = describe()
    assert len({d.key for d in docs}) == len(docs) > 60
    for doc in docs:
        assert doc.meaning, doc.key
        assert doc.type, doc.key


def test_resolved_tree_survives_yaml(tmp_path):
    config = load_config(None, ["train.lr_new=1e-5", "runtime.name=no", "sweep.space={train.seed: {grid: [1, 2]}}"])
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config
    assert config.train.lr_new == 1e-5
    assert config.runtime.name == "no"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epocs=3", "There is no setting train.epocs. Did you mean train.epochs?"),
        ("epochs=3", "Did you mean train.epochs?"),
        ("train=3", "train is a section"),
        ("train.epochs=three", "train.epochs is 'three', but input should be a valid integer"),
        ("train.epochs=3.0", "valid integer"),
        ("train.epochs='3'", "valid integer"),
        ("train.epochs=true", "valid integer"),
        ("train.compile=no", "valid boolean"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.lr_new=.nan", "finite"),
        ("train.epochs", "not of the form key=value"),
        ("data.frames=99", "prepare.max_frames stores 12"),
        ("runtime.workers=3", "cannot be shared evenly"),
        ("prepare.crop=300", "larger than prepare.short_side"),
        ("prepare.policy=timestamps", "prepare.timestamps_s must list at least one moment"),
        ("prepare.timestamps_s=[1.0]", "prepare.timestamps_s is not used by prepare.policy fps_linspace"),
        ("prepare={policy: timestamps, max_frames: 1, timestamps_s: [0, 1]}", "prepare is a section"),
        ("prepare.resize=area", "'pil' or 'swscale'"),
        ("data.dev_split=train", "both 'train'"),
        ("train.epochs=[1", "not valid YAML"),
    ],
)
def test_bad_override_is_one_clear_sentence(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epochs: 1\n  epochs: 2\n", "line 3"),
        ("trian:\n  epochs: 1\n", "There is no setting trian.epochs"),
        ("train:\n", "section train is empty"),
        ("train: 3\n", "train is a section of settings"),
        ("- 1\n", "not a mapping"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_bad_file_is_one_clear_sentence(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value) or "section" in str(caught.value)


def test_missing_file_is_one_clear_sentence(tmp_path):
    with pytest.raises(ConfigError, match="There is no config file"):
        load_config(tmp_path / "none.yaml")


def test_digest_names_the_experiment_and_not_its_surroundings():
    base = Config()
    assert with_overrides(base, {"runtime.workers": 2, "sweep.trials": 3}).digest() == base.digest()
    assert with_overrides(base, {"train.seed": 1}).digest() != base.digest()
    assert base.run_name() == base.digest()


def test_diff_names_the_keys_that_differ():
    assert diff(Config(), with_overrides(Config(), {"train.seed": 1})) == {"train.seed": (42, 1)}


def test_tree_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.seed = 3


def test_flatten_uses_the_documented_keys():
    assert set(flatten(Config())) == {d.key for d in describe()}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_loads(path):
    assert isinstance(load_config(path), Config)


def test_build_refuses_what_no_file_can_hold():
    with pytest.raises(ConfigError, match="There is no setting x"):
        build({"x": 1})


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a [*a]\n",
        f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]\n",
        "a: " + "[" * 40 + "]" * 40,
    ],
    ids=["aliases of aliases", "an alias of itself", "aliases of a long text", "depth"],
)
def test_settings_that_unfold_without_end_are_one_sentence(tmp_path, text):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="unfolds to more than settings may hold") as caught:
        load_config(path)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_too_large_for_settings_is_not_parsed(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("x: " + "y" * 2**21)
    with pytest.raises(ConfigError, match="settings have at most 1048576"):
        load_config(path)
