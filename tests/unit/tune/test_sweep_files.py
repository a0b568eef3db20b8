"""The ready files in configs/sweeps: each loads, fits every experiment, and is the table it says it is."""

import re
from pathlib import Path

import pytest

from gare.cli import main
from gare.common.errors import ConfigError
from gare.config.tree import load_config, with_overrides
from tune.comparison import check_metric
from tune.space import expand

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs" / "sweeps"
DOCUMENT = ROOT / "docs" / "sweeps.md"
EXPERIMENTS = ("msrvtt", "msvd", "didemo", "activitynet", "demo", "events")
SEEDS = {"claims": 5, "terms_alone": 5, "false_negatives": 5, "collapse": 1}
"""Seeds of the files that do not have three."""
IB, TR, DIR = (f"objective.{term}.weight" for term in ("information_bottleneck", "trust_region", "direction_diversity"))
# What is published: the values of one key, in order, or the number of settings.
TABLES = {
    "alpha": ("objective.direction_diversity.alpha", [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]),
    "anchor": ("objective.information_bottleneck.anchor", ["video", "text"]),
    "bound": ("objective.trust_region.bound", [0.1, 0.25, 0.5, 1.0, 2.0]),
    "normalised": ("objective.information_bottleneck.normalised", [False, True]),
    "orthogonality": ("objective.direction_diversity.form", ["diversity", "orthogonality"]),
    "prior_sigma": ("objective.information_bottleneck.prior_sigma", [0.1, 1.0, 10.0, 100.0]),
    "query": ("model.query", ["gap", "text", "residual", "residual_scaled"]),
}


def planned(name, experiment="msrvtt"):
    config = load_config(ROOT / "configs" / f"{experiment}.yaml", sweep=FOLDER / f"{name}.yaml")
    check_metric(config)
    return config, expand(config)


def weights(config, trial):
    settings = with_overrides(config, trial.overrides).objective
    return (settings.information_bottleneck.weight, settings.trust_region.weight, settings.direction_diversity.weight)


def test_every_file_is_checked_here():
    others = {"cells", "heads", "loss_terms", "regularisers", *SEEDS}
    assert {path.stem for path in FOLDER.iterdir()} == {*TABLES, *others}


OF_THE_DEMO = {"collapse"}
"""Files about towers that learn from nothing."""


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.iterdir()))
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_file_fits_every_experiment(name, experiment):
    if name in OF_THE_DEMO:
        experiment = "demo"
    config, trials = planned(name, experiment)
    per_seed = {seed: [t for t in trials if t.overrides["train.seed"] == seed] for seed in config.sweep.seeds}
    seeds = SEEDS.get(name, 3)
    assert len(per_seed) == seeds
    assert {len(settings) for settings in per_seed.values()} == {len(trials) / seeds}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_of_one_key_lists_the_published_values_and_holds_the_recipe_itself(name):
    key, values = TABLES[name]
    config, trials = planned(name)
    assert [t.overrides[key] for t in trials] == values * 3
    first = trials[: len(values)]
    own = [with_overrides(config, t.overrides | {"train.seed": config.train.seed}).digest() for t in first]
    assert own.count(config.digest()) == 1


def test_the_cells_are_every_side_context_and_sign():
    _, trials = planned("cells")
    cells = {tuple(t.overrides[f"model.{key}"] for key in ("corrected", "context", "gap_sign")) for t in trials}
    assert cells == {
        (side, context, sign) for side in ("text", "video") for context in ("frames", "words") for sign in (1, -1)
    }
    assert len(trials) == 24


@pytest.mark.parametrize(
    ("name", "terms"),
    [("loss_terms", ["", "t", "d", "td", "i", "itd"]), ("regularisers", ["", "i", "t", "d", "td", "id", "it", "itd"])],
)
def test_cases_take_terms_away_from_the_experiment(name, terms):
    config, trials = planned(name)
    ours = weights(config, type(trials[0])(None, {}))
    wanted = [tuple(w if letter in kept else 0.0 for letter, w in zip("itd", ours, strict=True)) for kept in terms]
    assert [weights(config, trial) for trial in trials] == wanted * 3
    assert [trial.case for trial in trials] == [*config.sweep.cases] * 3


def test_the_claims_compare_heads_and_terms_alone_at_every_noise():
    config, trials = planned("claims", "events")
    settings = {t.case: with_overrides(config, t.overrides) for t in trials}
    kept = {case: weights(config, t) for t in trials for case in [t.case]}
    ours = weights(config, type(trials[0])(None, {}))
    assert kept["all terms"] == ours
    assert kept["increment"] == kept["X-Pool"] == kept["mean pooling"] == (0, 0, 0)
    assert {case for case, one in settings.items() if one.model.makes_increments} == {"increment", "all terms"}
    assert [settings[case].model.head for case in ("baseline", "X-Pool", "mean pooling")] == [
        "gare",
        "xpool",
        "mean_pool",
    ]
    assert {t.overrides["data.caption_noise"] for t in trials} == {0.0, 0.2, 0.4}
    _, alone = planned("terms_alone", "events")
    found = {t.case: weights(config, t) for t in alone}
    wanted = zip(("L_ib alone", "L_tr alone", "L_dir alone"), range(3), strict=True)
    assert all(found[case] == tuple(w if i == place else 0 for i, w in enumerate(ours)) for case, place in wanted)
    assert found["query is the text"] == ours


def test_a_sweep_file_takes_the_place_of_the_section_and_holds_nothing_else(tmp_path):
    config, _ = planned("alpha", "demo")
    assert list(config.sweep.space) == ["objective.direction_diversity.alpha"]
    assert config.data.frames == 8
    file = tmp_path / "s.yaml"
    file.write_text("train: {epochs: 3}\nsweep: {trials: 2}\n")
    with pytest.raises(ConfigError, match=r"s\.yaml holds train; a sweep file holds the section sweep, and nothing"):
        load_config(None, sweep=file)
    file.write_text("")
    with pytest.raises(ConfigError, match="holds nothing; a sweep file"):
        load_config(None, sweep=file)
    file.write_text("sweep: {trails: 2}\n")
    with pytest.raises(ConfigError, match=r"s\.yaml: There is no setting sweep\.trails\. Did you mean sweep\.trials"):
        load_config(None, sweep=file)
    file.write_text("sweep: {trials: 2}\n")
    assert load_config(None, ["sweep.trials=3"], sweep=file).sweep.trials == 3


BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("block", "count"), zip(BLOCKS, [4 * 2 * 3, 3 * 3, 0], strict=True))
def test_what_the_documentation_shows_can_be_run(block, count, tmp_path):
    (tmp_path / "s.yaml").write_text(block)
    config = load_config(ROOT / "configs" / "demo.yaml", sweep=tmp_path / "s.yaml")
    assert len(expand(config)) == count


def test_every_ready_file_is_named_in_the_documentation():
    named = re.findall(r"`(\w+)\.yaml` \|", DOCUMENT.read_text())
    assert sorted(named) == sorted(path.stem for path in FOLDER.iterdir())


def test_a_sweep_file_is_for_a_new_sweep(capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["sweep", "--resume", "s", "--sweep", str(FOLDER / "alpha.yaml")])
    assert "--sweep describes a new sweep, and --resume continues one" in capfd.readouterr().err
