"""Manifest, sources and shards on a server that speaks S3: the same dataset as on disk, killed and taken up alike."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow.fs import FileSystem

from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.common.storage import Folder
from gare.config.prepare import PrepareConfig
from gare.config.tree import to_yaml
from gare.data.cache import CACHE_VARIABLE, entries
from gare.data.shards import ShardSet
from gare.model import load_model
from gare.runs.storage import find_checkpoint
from gare.schema import MANIFEST
from pipelines.dataset.tools.merge import merge
from pipelines.dataset.tools.split import by_split, split
from pipelines.decode import DecodeError
from pipelines.decode.isolated.decoder import Decoder
from pipelines.manifest.rows import write_manifest
from pipelines.prepare import job as shards
from tests.prepared import make_sources
from tests.processes import gare, run
from tests.s3 import s3_bucket
from tests.videos import make_video

pytestmark = pytest.mark.slow
RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, unit_videos=2)
NAMES = ("a", "bad", "b", "c")


@pytest.fixture
def bucket(monkeypatch):
    with s3_bucket(monkeypatch) as address:
        yield address.format


@pytest.fixture
def corpus(tmp_path, bucket):
    """The same videos on disk and in the bucket, with a manifest beside them."""
    folder = make_sources(tmp_path / "videos")
    shutil.copy(folder / "a.mp4", folder / "a b#1.mp4")
    rows = [
        {"video_id": name, "uri": f"{name}.mp4", "split": "train", "captions": [f"a {name}"]}
        for name in (*NAMES, "a b#1")
    ]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), folder / "m.parquet")
    remote = Folder.at(bucket("corpus"))
    for path in folder.iterdir():
        with remote.writing(path.name) as copy:
            shutil.copy(path, copy)
    return folder, bucket("corpus/m.parquet")


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    def run(output, todo, workers, decode_on, work):
        return (work(output, task.unit, again=task.again) for task in todo)

    monkeypatch.setattr(shards, "run_units", run)
    monkeypatch.setattr(shards, "check_somewhere", lambda _: None)


def objects(address):
    system, path = FileSystem.from_uri(address)
    from pyarrow.fs import FileSelector

    found = system.get_file_info(FileSelector(path, recursive=True))
    return {info.path.removeprefix(path).lstrip("/"): info.size for info in found if info.is_file}


def test_a_corpus_in_the_bucket_gives_the_shards_of_the_one_on_disk(corpus, bucket, tmp_path, monkeypatch):
    folder, manifest = corpus
    monkeypatch.setenv("GARE_CACHE", str(tmp_path / "cache"))
    shards.prepare(folder / "m.parquet", tmp_path / "out", RECIPE)
    report = shards.prepare(manifest, bucket("out"), RECIPE)
    assert report.totals["ok"] == 4
    there, here = json.loads(Folder.at(bucket("out")).read_text("dataset.json")), ShardSet(tmp_path / "out").manifest
    assert [shard["rows"] for shard in there["shards"]] == [shard["rows"] for shard in here["shards"]]
    light = ShardSet(bucket("out"), frames=False)
    seen = light.split("train").videos, light.rows(), light.complete, light.repeated()
    assert not (tmp_path / "cache").exists()
    remote = ShardSet(bucket("out"))
    assert seen == (remote.split("train").videos, remote.rows(), remote.complete, remote.repeated())
    assert (remote.digest, remote.folder.parent) == (there["digest"], tmp_path / "cache/shards")
    one, other = remote.split("train"), ShardSet(tmp_path / "out").split("train")
    for number, video in enumerate(other.videos):
        assert video.video_id == one.videos[number].video_id
        assert (one.frames(number, 3) == other.frames(number, 3)).all()


def test_a_job_killed_in_the_middle_goes_on_in_the_bucket(corpus, bucket, monkeypatch):
    _, manifest = corpus
    shards.prepare(manifest, bucket("whole"), RECIPE)
    done = []

    def run(output, todo, workers, decode_on, work):
        for task in todo:
            if len(done) == 1:
                raise RunError("killed")
            done.append(task.unit)
            yield work(output, task.unit, again=task.again)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "run_units", run)
        with pytest.raises(RunError, match="killed"):
            shards.prepare(manifest, bucket("out"), RECIPE)
    assert "dataset.json" not in objects(bucket("out"))
    assert shards.prepare(manifest, bucket("out"), RECIPE).units_skipped == 1
    mine, whole = objects(bucket("out")), objects(bucket("whole"))
    assert {n: s for n, s in mine.items() if n.startswith("shards/")} == {
        n: s for n, s in whole.items() if n.startswith("shards/")
    }
    read = [Folder.at(bucket(name)).read_text("dataset.json") for name in ("out", "whole")]
    assert read[0] == read[1]
    assert shards.prepare(manifest, bucket("out"), RECIPE).videos == 0


def test_a_changed_object_is_noticed_and_done_again(corpus, bucket):
    folder, manifest = corpus
    shards.prepare(manifest, bucket("out"), RECIPE)
    with Folder.at(bucket("corpus")).writing("b.mp4") as copy:
        shutil.copy(folder / "c.mp4", copy)
    with pytest.raises(InputError, match="'b' first"):
        shards.prepare(manifest, bucket("out"), RECIPE)
    assert shards.prepare(manifest, bucket("out"), RECIPE, changed="redo").videos == 1


def test_a_shard_damaged_on_the_way_is_refused(corpus, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GARE_CACHE", str(tmp_path / "cache"))
    shards.prepare(corpus[1], bucket("out"), RECIPE)
    place = Folder.at(bucket("out"))
    name = place.names("shards")[0]
    content = bytearray(place.source(f"shards/{name}").read())
    content[len(content) // 2] ^= 1
    with place.writing(f"shards/{name}") as path:
        path.write_bytes(content)
    with pytest.raises(InputError, match="another SHA-256"):
        ShardSet(bucket("out"))
    place.remove(f"shards/{name}")
    with pytest.raises(InputError, match=rf"Cannot read the shard s3://.*{name}"):
        ShardSet(bucket("out"), frames=False).rows()
    assert not any(path.suffix == ".tmp" for path in Path(os.environ["GARE_CACHE"]).rglob("*"))


def test_datasets_in_the_bucket_are_merged_and_split_there(corpus, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GARE_CACHE", str(tmp_path / "cache"))
    folder, manifest = corpus
    shards.prepare(manifest, bucket("one"), RECIPE)
    rows = [{"video_id": "more", "uri": str(folder / "c.mp4"), "split": "test", "captions": []}]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "more.parquet")
    shards.prepare(tmp_path / "more.parquet", bucket("other"), RECIPE)
    merge([Folder.at(bucket("one")), Folder.at(bucket("other"))], Folder.at(bucket("both")))
    assert ShardSet(bucket("both")).splits == {
        "test": {"captions": 0, "videos": 1},
        "train": {"captions": 4, "videos": 4},
    }
    split(Folder.at(bucket("both")), Folder.at(bucket("parts")), by_split())
    part = ShardSet(bucket("parts/test"))
    assert [video.video_id for video in part.split("test").videos] == ["more"]


def test_a_manifest_or_a_bucket_that_is_not_there_is_one_sentence(bucket, corpus):
    with pytest.raises(InputError, match=r"There is no manifest s3://bucket-\w+/none.parquet"):
        shards.prepare(bucket("none.parquet"), bucket("out"), RECIPE)
    elsewhere = bucket("out").replace("s3://bucket-", "s3://nowhere-")
    with pytest.raises(InputError, match=r"s3://nowhere-\w+/out"):
        shards.prepare(corpus[1], elsewhere, RECIPE)


@pytest.mark.ray
def test_a_run_on_shards_of_the_bucket_is_taken_up_from_there_on_another_disk(
    toy_run, toy_shards, bucket, tmp_path, monkeypatch
):
    place = Folder.at(bucket("toy"))
    for path in toy_shards.rglob("*"):
        if path.is_file():
            place.put(path, path.relative_to(toy_shards).as_posix())

    def train(disk):
        # A process with a Ray of its own: workers that were up before the bucket would not know its credentials.
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / disk / "cache"))
        more = (f"runtime.shards={bucket('toy')}", f"runtime.storage={bucket('runs')}")
        path = tmp_path / f"{disk}.yaml"
        path.write_text(to_yaml(toy_run("train.epochs=2", "runtime.name=x", *more, output=f"{disk}/runs")))
        return json.loads(run(gare("train", path, "--json")).stdout)

    first, again = train("first"), train("second")
    assert again["already_finished"]
    assert again["best_metrics"] == first["best_metrics"]
    assert [copy.state for copy in entries(tmp_path / "first" / "cache" / "shards")] == ["unused"]
    assert not (tmp_path / "second" / "cache" / "shards").exists()  # nothing was read again
    models = [load_model(place) for place in (first["best"], again["best"], find_checkpoint(bucket("runs/x")))]
    for ours, theirs, fetched in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, fetched)


def test_keys_are_fetched_as_they_are_listed(tmp_path, bucket):
    path = make_video(tmp_path / "a.mp4", frames=6)
    keys = ("a b.mp4", "clip #1 (final)?.mp4", "100%.mp4", "x%20y.mp4", "caf\u00e9/\u65e5 [1].mp4", "a+b&c='d'.mp4")
    system, root = FileSystem.from_uri(bucket(""))
    for key in keys:
        with system.open_output_stream(f"{root}/{key}") as sink:
            sink.write(path.read_bytes())
    with Decoder() as decoder:
        for address in (*keys, "a%20b.mp4", "caf%C3%A9/%E6%97%A5%20%5B1%5D.mp4"):
            assert decoder.decode(bucket(address), recipe=RECIPE).sha256 == file_digest(path), address
        with pytest.raises(DecodeError, match="missing"):
            decoder.decode(bucket("no%20such.mp4"), recipe=RECIPE)
