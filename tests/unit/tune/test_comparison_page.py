"""The comparison's page: whole, harmless, and true of sweeps of every kind."""

import math
import random
from importlib.resources import files

import pytest
from scipy import stats

from gare.common.page import figures
from tests.page import HOSTILE, PLAIN, SHOWN, Page
from tests.unit.tune.made_sweep import FORM, IB, METRIC, TR, seeds, sweep_config, trial, write, write_history
from tune.comparison import compare
from tune.comparison.charts import LONGEST
from tune.comparison.charts import _short as short
from tune.comparison.labels import _nice, axis, span_axis

DRAWN = {"x", "y", "d", "transform", "id", "href"}
"""Where things stand in a picture, which may depend on the length of a label."""
# No file of ours can hold half a surrogate pair.
HOSTILE, SHOWN = HOSTILE.replace("\ud800", ""), SHOWN.replace("\\ud800", "")
PLAIN = PLAIN[: len(HOSTILE)]


def page_of(folder, **kwargs):
    found = compare(folder, **kwargs)
    text = found.page.read_text()
    page = Page(text)
    assert all(load.removeprefix("#") in page.ids for load in page.loads)
    assert not any(tag in {"script", "iframe", "link", "object", "form", "img"} for tag, _ in page.tags)
    assert "http" not in text.replace("http-equiv", "")
    assert "nan" not in text.replace("resonan", "").lower().split("<body>")[1]
    assert all(values.get("scope") for tag, values in page.tags if tag == "th")
    assert all(values.get("aria-label") for _, values in page.tags if values.get("role") == "img")
    return page, found


def captions(page):
    return [tag for tag, _ in page.tags].count("figcaption")


def test_a_full_sweep_has_every_section_and_a_panel_for_each_key(tmp_path):
    rng = random.Random(0)
    trials = []
    for number in range(0, 60, 2):
        values = {IB: 10 ** rng.uniform(-6, -2), TR: rng.choice([0, 1e-4, 0.01]), FORM: rng.choice(["hard", "smooth"])}
        trials += seeds(number, [rng.gauss(math.log10(values[IB]), 0.3) + 20 for _ in range(2)], **values)
    write(tmp_path, trials)
    for each in trials[:4]:
        rows = [{"step": 9 * epoch, "epoch": epoch, METRIC: 5.0 * epoch, "train/loss": 1 / epoch} for epoch in (1, 2)]
        write_history(tmp_path, each.name, rows)
    page, found = page_of(tmp_path)
    sections = {"ranking", "noise", "sensitivity", "parallel", "importance", "curves", "cost"}
    assert {each.removeprefix("#") for each in page.loads} & sections == sections <= page.ids
    assert captions(page) == 3 + 2 + 1
    assert f"Best of 30 settings: {found.ranked[0].label}" in page.text
    assert all(each.says in page.text for each in found.against)
    assert "10 further settings" in page.text
    assert "not training 25 %" in page.text


def test_no_seeds_is_said_and_nothing_is_claimed(tmp_path):
    write(tmp_path, [trial(n, 10.0 * n, **{TR: weight}) for n, weight in enumerate([0, 1e-4, 0.01])])
    page, found = page_of(tmp_path)
    assert "No setting has more than 1 seed" in page.text
    assert "Whether it differs from the others is open." in page.text
    assert " is better than " not in page.text
    assert {each.verdict for each in found.against} == {"unknown"}


def test_a_difference_that_counts_only_alone_does_not_count(tmp_path):
    # Differences of -1, -2 and -1.6: a paired t of 5.28 with two degrees of freedom, so p is 0.034, and 0.068 of two.
    near = [[30.0, 30.0, 30.0], [29.0, 28.0, 28.4], [29.9, 30.3, 29.6]]
    write(tmp_path, [t for n, row in enumerate(near) for t in seeds(3 * n, row, **{TR: [0, 1e-4, 0.01][n]})])
    page, found = page_of(tmp_path, baseline="trial-000")
    alone = next(each for each in found.against if each.setting.values[TR] == 1e-4)
    assert alone.found.p == pytest.approx(0.0341, abs=1e-3)
    assert alone.adjusted == pytest.approx(2 * alone.found.p)
    assert alone.verdict == "same"
    assert alone.says in page.text
    assert "alone it would count, among 2 comparisons it does not" in alone.says
    assert "of the others 2 not to be told apart from the baseline trial-000" in page.text
    page, found = page_of(tmp_path)
    picked = next(each for each in found.against if each.setting.values[TR] == 1e-4)
    assert picked.found.p == alone.found.p
    # q = sqrt(2) x 5.28 among three, by the tables of the studentised range with two degrees of freedom (8.33 at 0.05).
    assert picked.adjusted == pytest.approx(stats.studentized_range.sf(math.sqrt(2) * 5.277, 3, 2), abs=1e-3)
    assert picked.verdict == "same"
    assert picked.found.interval[0] < 0 < picked.found.interval[1]
    assert "alone it would count, against the best of 3 settings it does not" in picked.says
    assert "of the others 2 not to be told apart from it" in page.text


@pytest.mark.parametrize("status", ["pending", "running", "failed", "stopped", "done"])
def test_one_trial_in_any_state_makes_a_page(tmp_path, status):
    write(tmp_path, [trial(0, 10.0 if status in {"stopped", "done"} else None, status)])
    page, _ = page_of(tmp_path)
    assert "ranking" in page.ids
    if status in {"pending", "running"}:
        assert "1 of 1 trial has not ended: this is how it stands so far." in page.text
    if status == "failed":
        assert "trial-000: RunError: it broke" in page.text


def test_a_sweep_at_work_with_failures_and_stopped_trials_says_so(tmp_path):
    trials = [trial(n, 10.0 + n, **{IB: 10.0**-n}) for n in range(2, 6)]
    trials += [trial(6, 4.0, "stopped", **{IB: 0.5}), trial(7, None, "failed", **{IB: 0.6})]
    trials += [trial(8, None, "running", **{IB: 0.7}), trial(9, None, "pending", **{IB: 0.8})]
    write(tmp_path, trials)
    rows = [{"step": 5, "epoch": 1, METRIC: 4.0}, {"step": 6, "epoch": 2, METRIC: float("nan")}]
    write_history(tmp_path, "trial-006", rows)
    page, _ = page_of(tmp_path)
    for says in ("2 of 8 trials have not ended", "1 trial failed", "1 trial stopped early"):
        assert says in page.text
    assert any("cut" in values.get("class", "") for _, values in page.tags)


def test_values_of_all_kinds_stand_on_one_axis(tmp_path):
    # The best one has a value that the setting takes: best.yaml is an experiment.
    values = ["hard", None, True, False, 3, 0.5, "a rather long name that is cut"]
    folder = write(tmp_path, [trial(n, 20.0 - n, **{FORM: value}) for n, value in enumerate(values)])
    page, _ = page_of(folder)
    assert "null" in page.words
    assert axis(values).labels[:3] == ["null", "false", "true"]


def hostile_page(folder, words):
    cases = {words: {}, "other": {IB: 0.1}, f"{words} 2": {IB: 0.2}}
    config = sweep_config(space={}, cases=cases, seeds=[0, 1])
    trials = []
    for name, values in cases.items():
        trials += seeds(len(trials), [10.0, 11.0 + len(trials)], case=name, only=True, **values)
    trials.append(trial(9, None, "failed", case=words, only=True, **{"train.seed": 3}))
    trials[-1].error = words
    write(folder, trials, config, name=words)
    write_history(folder, trials[0].name, [{"step": 1, "epoch": 1, METRIC: 5.0}, {"step": 2, "epoch": 2, METRIC: 6.0}])
    page, found = page_of(folder)
    assert found.reference == words
    return page


def test_hostile_names_are_only_text(tmp_path):
    page, plain = hostile_page(tmp_path / "a", HOSTILE), hostile_page(tmp_path / "b", PLAIN)
    assert page.shape() == plain.shape()
    shown = [words.replace(PLAIN, SHOWN) for words in plain.words]
    ticks = {short(words) for words in (HOSTILE, f"{HOSTILE} 2", PLAIN, f"{PLAIN} 2")}
    assert len(ticks & set(page.words)) == 2
    assert [words for words in page.words if words not in ticks] == [words for words in shown if words not in ticks]
    for (_, values), (_, expected) in zip(page.tags, plain.tags, strict=True):
        assert {n: v for n, v in values.items() if n not in DRAWN} == {
            n: v.replace(PLAIN, SHOWN) for n, v in expected.items() if n not in DRAWN
        }


def test_the_same_sweep_gives_the_same_page_whatever_matplotlib_is_told(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    trials = [trial(n, 10.0 + n, **{IB: 10.0**-n, TR: [0, 0.01][n % 2]}) for n in range(2, 6)]
    first = compare(write(tmp_path / "a", trials)).page.read_text()
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"text.usetex": True, "savefig.bbox": "tight", "svg.fonttype": "path"}):
        assert compare(write(tmp_path / "b", trials)).page.read_text() == first


def test_pictures_have_the_colours_of_the_page():
    style = (files("gare.common.page") / "palette.css").read_text()
    for variable in figures.VARIABLES.values():
        assert style.count(f"--{variable}: #") == 2  # light and dark


def test_a_long_label_keeps_both_ends_and_no_more_than_fits():
    assert short("a" * LONGEST) == "a" * LONGEST
    assert short("first-of-many-last") == "first-\u2026y-last"
    assert len(short("x" * 50)) <= LONGEST


def test_cases_alone_have_a_panel_and_no_importance(tmp_path):
    cases = {"plain": {}, "bottleneck": {IB: 0.1}}
    config = sweep_config(space={}, cases=cases, seeds=[0, 1])
    write(
        tmp_path,
        [t for n, (c, v) in enumerate(cases.items()) for t in seeds(2 * n, [9.0 + n, 9.5], case=c, only=True, **v)],
        config,
    )
    page, _ = page_of(tmp_path)
    assert "importance" not in page.ids
    assert "sensitivity" in page.ids


def test_two_hundred_trials_make_a_page_of_reasonable_size(tmp_path):
    write(tmp_path, [trial(n, float(n % 37), **{IB: (n + 1) * 1e-5}) for n in range(200)])
    history = [{"step": s, "train/loss": 1.0, "epoch": s, METRIC: 1.0} for s in range(1, 1000)]
    write_history(tmp_path, "trial-000", history)
    page, found = page_of(tmp_path)
    assert found.page.stat().st_size < 2e6
    assert "180 further settings" in page.text
    assert len(found.curves[0].loss) == 60


def test_axes_place_values_where_they_belong():
    wide = axis([0, 1e-4, 1e-3, 1e-2], form="grid")
    assert wide.kind == "log"
    assert [label for _, label in wide.ticks] == ["0", "0.0001", "0.001", "0.01"]
    places = [wide.at(value) for value in (0, 1e-4, 1e-3, 1e-2)]
    assert places == sorted(places)
    assert places[2] - places[1] == pytest.approx(places[3] - places[2])
    six = [2e-5, 3e-5, 4e-4, 5e-3, 6e-2, 7e-1]
    assert [label for _, label in axis(six).ticks] == ["2e-05", "3e-05", "0.0004", "0.005", "0.06", "0.7"]
    assert [label for _, label in axis([*six, 8.0]).ticks] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    assert axis([1, 1000], form="uniform").kind == "linear"
    assert axis([-1, 100]).kind == "linear"
    assert axis([True, False]).kind == "category"
    same = axis([5.0, 5.0])
    assert same.at(5.0) == pytest.approx(0.5)
    assert all(0 <= place <= 1 for place, _ in span_axis(12.3, 98.7).ticks)
    assert [label for _, label in span_axis(0, 100).ticks] == ["0", "25", "50", "75", "100"]
    assert _nice(0.0, 50.0) == [0, 10, 20, 30, 40, 50]
    assert _nice(0.0, 0.3) == [0, 0.1, 0.2, 0.3]
