"""Real clips take the path of any corpus: captions and files in, answers out."""

from __future__ import annotations

import csv
import json

import pytest

from gare.cli import main

pytestmark = pytest.mark.ray
CLIPS = 6
SPLITS = ("train", "train", "train", "train", "dev", "test")


def run(capfd, *arguments):
    """What a command prints with --json."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    return json.loads(out)


def test_real_footage_goes_from_a_csv_to_answers(fixtures_dir, ray_cluster, tmp_path, capfd):
    with (fixtures_dir / "clips/good.csv").open(encoding="utf-8", newline="") as stream:
        clips = [row for row in csv.DictReader(stream) if row["kind"] == "panda70m"][:CLIPS]
    assert len(clips) == CLIPS
    with (tmp_path / "clips.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip", "text", "part"])
        writer.writerows((row["file"], row["caption"], part) for row, part in zip(clips, SPLITS, strict=True))

    columns = "video_id=clip,uri=clip,captions=text,split=part"
    manifest, shards, clip = tmp_path / "m.parquet", tmp_path / "shards", tmp_path / "clip"
    made = run(capfd, "manifest", "csv", tmp_path / "clips.csv", "--out", manifest, "--columns", columns,
               "--root", fixtures_dir / "clips")  # fmt: skip
    assert made["splits"]["train"] == {"videos": 4, "captions": 4}

    prepared = run(capfd, "prepare", manifest, "--out", shards, "--set=prepare.crop=32", "--set=prepare.short_side=32")
    assert prepared["totals"]["ok"] == CLIPS
    assert prepared["totals"]["frames"] >= CLIPS

    run(capfd, "make-clip", manifest, "--out", clip, "--image-size", 32, "--patch-size", 16, "--width", 64,
        "--vision-layers", 1, "--text-layers", 1)  # fmt: skip
    (tmp_path / "run.yaml").write_text(
        f"model: {{clip: {clip}, temporal_layers: 1}}\n"
        "prepare: {crop: 32, short_side: 32}\n"
        "train: {global_batch: 4, epochs: 3, lr_clip: 1.0e-3, lr_new: 1.0e-3}\n"
        f"runtime: {{shards: {shards}, output: {tmp_path / 'runs'}, name: real, tracking: false}}\n"
    )
    trained = run(capfd, "train", tmp_path / "run.yaml", "--local")
    assert (trained["epochs"], trained["steps"]) == (3, 3)

    run(capfd, "index", tmp_path / "runs/real", "--shards", shards, "--split", "train", "--out", tmp_path / "index")
    hits = run(capfd, "search", tmp_path / "index", clips[0]["caption"], "--top", 3)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert {hit["uri"] for hit in hits} <= {str(fixtures_dir / "clips" / row["file"]) for row in clips}
    assert all(-1 <= hit["score"] <= 1 for hit in hits)
