"""A benchmark by its own rules, from the annotation files as published to the report page."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gare.cli import main
from tests.videos import make_video

pytestmark = [pytest.mark.ray, pytest.mark.slow]
VIDEOS, PAIRS = 1065, 64
EXTENSIONS = ("mp4", "MOV", "AVI", "m4v", "3GP", "mpg", "")


def run(capfd, *arguments):
    """What a command prints with --json."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    return json.loads(out)


def didemo(fixtures: Path, folder: Path) -> tuple[Path, Path]:
    """DiDeMo's validation file as published, a train file of made-up videos, and files under all their names."""
    annotations, videos = folder / "annotations", folder / "videos"
    annotations.mkdir()
    videos.mkdir()
    (annotations / "val_data.json").symlink_to(fixtures / "annotations/didemo/val_data.json")
    train = [
        {"video": f"made_{n}.mp4", "description": f"a bar moves {n % 7} times", "times": [[0, 0]], "num_segments": 1}
        for n in range(PAIRS)
    ]
    (annotations / "train_data.json").write_text(json.dumps(train))
    made = [make_video(folder / f"{n}.mp4", frames=8 + 4 * n, fps=4) for n in range(5)]
    published = [entry["video"] for entry in json.loads((annotations / "val_data.json").read_text())]
    stems = dict.fromkeys(name.rpartition(".")[0] for name in [e["video"] for e in train] + published)
    for stem, extension, source in zip(stems, cycle(EXTENSIONS), cycle(made), strict=False):
        (videos / f"{stem}.{extension}").symlink_to(source)
    return annotations, videos


@pytest.mark.timeout(600)
def test_didemo_goes_from_its_published_file_to_the_report(fixtures_dir, ray_cluster, tmp_path, capfd):
    annotations, videos = didemo(fixtures_dir, tmp_path)
    manifest, shards, clip = tmp_path / "m.parquet", tmp_path / "shards", tmp_path / "clip"
    made = run(capfd, "manifest", "didemo", "--annotations", annotations, "--videos", videos, "--out", manifest)
    assert made["splits"]["dev"]["published"] == made["splits"]["dev"]["videos"] == VIDEOS
    assert made["splits"]["dev"]["captions"] == VIDEOS  # a paragraph each
    assert made["missing"] == 0
    assert list(made["absent"]) == ["test"]

    small = ("--set=prepare.crop=32", "--set=prepare.short_side=32")
    prepared = run(capfd, "prepare", manifest, "--out", shards, "--config", "configs/didemo.yaml", *small)
    assert prepared["totals"]["ok"] == VIDEOS + PAIRS
    run(capfd, "make-clip", manifest, "--out", clip, "--split", "dev", "--image-size", 32, "--patch-size", 16,
        "--width", 64, "--vision-layers", 1, "--text-layers", 1)  # fmt: skip
    places = (f"model.clip={clip}", f"runtime.output={tmp_path / 'runs'}", "runtime.name=didemo")
    recipe = ("train.global_batch=32", "train.epochs=1", "runtime.tracking=false", "model.temporal_layers=1")
    settings = [f"--set={value}" for value in (*places, *recipe)]
    trained = run(capfd, "train", "configs/didemo.yaml", "--shards", shards, "--local", *small, *settings)
    assert trained["steps"] == PAIRS // 32

    measured = run(capfd, "evaluate", tmp_path / "runs/didemo", "--shards", shards, "--split", "dev")
    assert measured["t2v/queries"] == measured["t2v/gallery"] == measured["v2t/queries"] == VIDEOS
    assert {"t2v/R@1", "v2t/MnR", "t2v_dsl/R@1"} <= measured.keys()
    out = Path(measured["out"])
    ranks = pq.read_table(out / "ranks.parquet").to_pylist()
    queries = [row for row in ranks if row["ranking"] == "t2v"]
    assert len(queries) == VIDEOS
    assert measured["t2v/R@1"] == pytest.approx(100 * sum(row["rank"] == 1 for row in queries) / VIDEOS)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{VIDEOS:,}" in page or str(VIDEOS) in page
    baseline = run(capfd, "zero-shot", clip, "--shards", shards, "--split", "dev", "--out", tmp_path / "zero-shot")
    assert baseline["t2v/gallery"] == VIDEOS
    compared = run(capfd, "compare", tmp_path / "zero-shot", out)
    assert compared
