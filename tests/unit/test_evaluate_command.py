"""``gare evaluate`` and ``gare zero-shot``: the files they leave and what they say of the checkpoint."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from gare.cli import main
from gare.config.tree import with_overrides
from gare.data.shards import ShardSet
from gare.launch.local import fit_local
from gare.schema import TAKEN_FROM
from tests import toy
from tests.page import Page
from tests.reference import rankings


@pytest.fixture(scope="module")
def runs(tmp_path_factory, toy_clip, toy_shards):
    """Runs of two epochs: one chosen on dev, one without a dev split."""
    folder = tmp_path_factory.mktemp("runs")
    for name, overrides in {"held": (), "none": ("protocol.dev=none",)}.items():
        config = toy.toy_config(toy_clip, toy_shards, folder, *overrides)
        fit_local(with_overrides(config, {"runtime.name": name}), quiet=True)
    return folder


@pytest.fixture
def gare(capfd):
    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        out, err = capfd.readouterr()
        assert ended.value.code == 0, err
        return json.loads(out), err

    return call


def test_an_evaluation_leaves_its_figures_ranks_page_and_scores(gare, runs, toy_shards, tmp_path):
    out = tmp_path / "out"
    result, err = gare(
        "evaluate", runs / "held", "--shards", toy_shards, "--out", out, "--save-scores", "--query-bank", 4,
        "--resamples", 50, "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    files = {path.name for path in out.iterdir()}
    assert files == {"metrics.json", "ranks.parquet", "report.html", "scores.safetensors"}
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    written = json.loads((out / "metrics.json").read_text())
    assert result == written | {"out": str(out), "report": str(out / "report.html")}
    assert written["dataset_digest"] == ShardSet(toy_shards).digest
    assert written["settings"] == {"data.frames": 3, "data.words": 12}
    assert written["config_digest"] == json.loads((runs / "held/run.json").read_text())["config_digest"]
    assert len(written["weights_digest"]) == 64
    assert (written["t2v/queries"], written["t2v/gallery"], written["v2t_qbnorm/gallery"]) == (12, 6, 12)
    assert written["postprocessing"]["qbnorm"]["captions"] == 4
    saved = load_file(out / "scores.safetensors")
    rows = pq.read_table(out / "ranks.parquet").to_pylist()
    for name, ranking in rankings(saved["scores"], saved["owner"]).items():
        assert [row["rank"] for row in rows if row["ranking"] == name] == ranking.ranks.tolist()
        assert {key: written[key] for key in ranking.metrics()} == ranking.metrics()
    assert {row["ranking"] for row in rows} == {key.partition("/")[0] for key in written if key.endswith("/R@1")}
    for says in ("t2v_dsl", "t2v_qbnorm", "v2t_grouped", "its 95 % interval", "dual softmax, over all queries", out):
        assert str(says) in err


def test_what_is_left_out_is_not_left_over_from_an_earlier_evaluation(gare, runs, toy_shards, tmp_path):
    gare("evaluate", runs / "held", "--shards", toy_shards, "--out", tmp_path, "--save-scores", "--resamples", 50)
    result, err = gare(
        "evaluate", runs / "held", "--shards", toy_shards, "--out", tmp_path, "--no-report", "--resamples", 0,
        "--ties", "mean",
    )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "ranks.parquet"}
    assert result["report"] is None
    assert result["intervals"] == {}
    assert result["ties"] == "mean"
    assert "interval" not in err


def test_the_places_of_results_when_none_is_named(gare, runs, toy_clip, toy_shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate = ("evaluate", runs / "held", "--shards", toy_shards, "--resamples", 0, "--no-report")
    folder = gare(*evaluate)[0]["out"]
    assert folder.endswith("/evaluation/test")
    assert gare(*evaluate, "--frames", "middle")[0]["out"] == f"{folder}-middle-frame"
    found = gare("zero-shot", toy_clip, "--shards", toy_shards, "--split", "dev", "--resamples", 0, "--no-report")
    assert found[0]["out"] == f"zero-shot/{toy_clip.name}/dev"


def test_the_report_says_how_the_checkpoint_was_chosen(gare, runs, toy_shards, tmp_path):
    def selection(checkpoint, *more):
        arguments = ("--shards", toy_shards, "--out", tmp_path / "out", "--resamples", 0, "--overwrite", *more)
        result, _ = gare("evaluate", checkpoint, *arguments)
        page = Page((tmp_path / "out/report.html").read_text()).text
        chosen = result["selection"]
        assert chosen["says"] in page
        for caution in chosen["cautions"]:
            assert caution in page
        return chosen["rule"], chosen["says"], chosen["cautions"]

    best = json.loads((runs / "held/run.json").read_text())["best"]
    says = f"by the best t2v/R@1 on the split 'dev' of 5 videos: epoch {int(best[-1])} of 2"
    assert selection(runs / "held") == ("dev", says, [])
    assert selection(runs / "none") == ("last", "the last epoch, epoch 2 of 2, of a run without a dev split", [])
    assert "chosen on a split of this name" in selection(runs / "held", "--split", "dev")[2][0]
    assert "trained on these videos" in selection(runs / "held", "--split", "train")[2][0]
    copied = shutil.copytree(runs / "held/checkpoints" / best, tmp_path / "copied")
    assert selection(copied)[:2] == (
        "unknown",
        f"not known: the folder is not part of a run, epoch {best[-1]} of some run",
    )
    other = shutil.copytree(runs / "held/checkpoints" / best, runs / "held/checkpoints/epoch-0009")
    rule, says, _ = selection(other)
    assert (rule, says) == ("other", f"by hand: epoch {best[-1]} of 2, where the split 'dev' of 5 videos chose {best}")
    (copied / "import.json").write_text("{}")
    assert selection(copied)[0] == "imported"


def test_videos_of_dev_that_were_trained_on_are_counted(gare, runs, toy_shards, tmp_path):
    shards = shutil.copytree(toy_shards, tmp_path / "shards")
    for path in (shards / "shards").glob("*.arrow"):
        table = pa.ipc.open_file(path).read_all()
        rows = table.to_pylist()
        for row in rows:
            row["attributes"] += [(TAKEN_FROM, "train")] if row["video_id"] in {"dev0", "dev3"} else []
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    arguments = ("--shards", shards, "--split", "dev", "--out", tmp_path / "out", "--resamples", 0, "--overwrite")
    cautions = gare("evaluate", runs / "none", *arguments)[0]["selection"]["cautions"]
    assert "trained on 2 of these 5 videos" in cautions[0]
    assert "chosen on" in gare("evaluate", runs / "held", *arguments)[0]["selection"]["cautions"][0]


def test_zero_shot_leaves_the_same_files_and_says_what_it_is(gare, runs, toy_clip, toy_shards, tmp_path):
    both = ("--shards", toy_shards, "--resamples", 50, "--query-bank", 3)
    trained, _ = gare("evaluate", runs / "held", *both, "--out", tmp_path / "trained")
    plain, err = gare("zero-shot", toy_clip, *both, "--out", tmp_path / "plain")
    assert plain.keys() == trained.keys()
    assert plain["selection"]["rule"] == "zero-shot"
    assert plain["config_digest"] is None
    assert plain["settings"] == {"data.frames": 3, "data.words": 16}  # all that the shards and this CLIP have
    assert f"zero-shot CLIP {toy_clip.name} on test" in err
    page = (tmp_path / "plain/report.html").read_text()
    assert f"<h1>zero-shot CLIP {toy_clip.name} on test</h1>" in page
    assert "nothing was trained" in page
    assert gare("compare", tmp_path / "trained", tmp_path / "plain")[0]
    few, _ = gare(
        "zero-shot", toy_clip, *both, "--out", tmp_path / "few", "--set", "data.words=5", "--set", "data.frames=1"
    )
    assert few["settings"] == {"data.frames": 1, "data.words": 5}
    assert "captions longer than 5 tokens" in (tmp_path / "few/report.html").read_text()


def test_a_checkpoint_of_any_name_is_evaluated(gare, runs, toy_clip, toy_shards, tmp_path):
    best = json.loads((runs / "held/run.json").read_text())["best"]
    odd = shutil.copytree(runs / "held/checkpoints" / best, tmp_path / "<b>&é")
    result, _ = gare("evaluate", odd, "--shards", toy_shards, "--resamples", 0)
    assert result["checkpoint"].endswith("<b>&é")
    assert "<h1>&lt;b&gt;&amp;é on test</h1>" in (odd / "evaluation/test/report.html").read_text()


def test_shards_without_captions_in_the_split_are_one_sentence(capfd, runs, tmp_path):
    shards = toy.make_shards(tmp_path / "shards", {"train": 4, "test": 3}, uncaptioned="test")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(runs / "held"), "--shards", str(shards), "--out", str(tmp_path / "out")])
    assert ended.value.code == 3
    assert "has no captions to query with" in capfd.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(
            ["evaluate", str(runs / "held"), "--shards", str(shards), "--split", "train", "--out", str(tmp_path / "o")]
        )
    assert ended.value.code == 0


def test_one_video_with_one_caption_is_a_page(gare, runs, tmp_path):
    shards = toy.make_shards(tmp_path / "shards", {"train": 4, "test": 1}, captions=1)
    result, _ = gare("evaluate", runs / "held", "--shards", shards, "--out", tmp_path / "out", "--query-bank", 2)
    assert result["t2v/R@1"] == 100
    assert "v2t_grouped/R@1" not in result
