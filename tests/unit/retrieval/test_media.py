"""What an index keeps to show its videos: pictures and frame vectors, through appending, compacting and damage."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import gare
from gare.common.errors import InputError
from gare.data.shards import ShardSet
from gare.evaluation.encode import encode_twice, encode_videos
from gare.model.checkpoint import load_checkpoint_config, load_model
from gare.retrieval import changes, segment_writer
from gare.retrieval.build import append_videos, write_index
from gare.retrieval.changes import compact_index, delete_videos
from gare.retrieval.media import MEDIA, Kept, MediaFile, small_jpeg
from gare.retrieval.model import IndexModel
from gare.retrieval.opening import open_index
from tests import toy


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(toy.make_shards(tmp_path_factory.mktemp("shards") / "s", {"train": 9, "dev": 4}))


@pytest.fixture(scope="module")
def model(tmp_path_factory, toy_clip, shards):
    folder = tmp_path_factory.mktemp("checkpoint")
    toy.make_checkpoint(folder, toy_clip, shards.folder)
    return IndexModel.of_checkpoint(folder, load_model(folder), load_checkpoint_config(folder))


def media_of(index):
    """Everything kept of every video that is not deleted, by id."""
    return {
        segment.table["video_id"][row].as_py(): {
            k: v[0] for k, v in segment.media.table.slice(row, 1).to_pydict().items()
        }
        for segment in index.segments
        for row in np.flatnonzero(segment.alive)
    }


def test_frames_times_and_pictures_are_those_of_the_shards(tmp_path, model, shards):
    index = write_index(tmp_path / "index", model, shards, "train")
    split = shards.split("train")
    before, after = encode_twice(model.model, split, model.config.data, 4, range(len(split)))
    assert torch.equal(after.frames, encode_videos(model.model, split, model.config.data, 4).frames)
    assert not torch.equal(before.frames, after.frames)
    for n, video in enumerate(split.videos):
        segment, row = index.find(video.video_id)
        media = index.segments[segment].media.read(row, model.model.dim)
        assert media.times_s == media.pictures_s == split.timestamps(n)
        assert (media.codec, media.bounds_s) == ("h264", (0.0, split.timestamps(n)[-1]))
        assert torch.allclose(media.frames, before.frames[n][before.frame_mask[n]], atol=2e-2, rtol=1e-3)
        with Image.open(io.BytesIO(index.segments[segment].media.picture(row, 0))) as image:
            difference = np.asarray(image, np.int16) - split.pictures(n, [0])[0]
        assert np.abs(difference).mean() < 12
        assert index.segments[segment].media.picture(row, 3) is None


def test_a_large_picture_becomes_small_and_keeps_its_shape():
    with Image.open(io.BytesIO(small_jpeg(np.zeros((360, 640, 3), np.uint8)))) as image:
        assert image.size == (256, 144)


def test_appending_deleting_and_compacting_keep_the_media_of_each_video(tmp_path, model, shards, monkeypatch):
    folder = tmp_path / "index"
    write_index(folder, model, shards, "train")
    append_videos(folder, model, shards, "dev")
    before = media_of(open_index(folder))
    assert len(before) == 13
    delete_videos(folder, ["train3", "dev1"])
    monkeypatch.setattr(segment_writer, "SEGMENT_VIDEOS", 4)
    monkeypatch.setattr(changes, "ENCODED", 4)
    compacted = compact_index(folder, model)
    assert len(compacted.segments) == 3
    assert media_of(compacted) == {name: media for name, media in before.items() if name not in ("train3", "dev1")}
    assert {path.suffix for path in folder.iterdir()} == {".json", ".records", ".arrow", ".media", ""}


@pytest.mark.parametrize(
    "kept", [Kept(previews=False), Kept(windows=False), Kept(previews=False, windows=False)], ids=str
)
def test_an_index_keeps_what_it_was_asked_to(tmp_path, model, shards, kept):
    folder = tmp_path / "index"
    write_index(folder, model, shards, "train", kept=kept)
    index, _ = append_videos(folder, model, shards, "dev")
    for segment in index.segments:
        if not kept:
            assert segment.media is None
            continue
        for row in range(len(segment)):
            media = segment.media.read(row, model.model.dim)
            assert (media.frames is not None, bool(media.pictures_s)) == (kept.windows, kept.previews)


def test_damaged_media_leave_the_search(tmp_path, model, shards, capsys):
    index = write_index(tmp_path / "index", model, shards, "train")
    path = index.folder / index.record.segments[0].media
    path.write_bytes(path.read_bytes()[:-100])
    opened = open_index(index.folder)
    assert opened.segments[0].media is None
    assert "searched, but not shown" in capsys.readouterr().err
    assert len(opened.search("a red square", 20)) == 9
    with pytest.raises(InputError, match="cannot be changed"):
        compact_index(index.folder, model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"frames": b"123"}, "cannot be right"),
        ({"frames": np.full(8, np.nan, np.float16).tobytes()}, "cannot be right"),
        ({"times_s": [float("inf"), 1.0]}, "cannot be right"),
        ({"pictures_s": [1.0, 2.0]}, "cannot be right"),
        ({"times_s": [None, 1.0]}, "does not hold the media"),
        ({"pictures": [None]}, "does not hold the media"),
    ],
)
def test_values_that_cannot_be_right_are_one_sentence(tmp_path, change, says):
    row = {"codec": "h264", "times_s": [0.0, 1.0], "frames": bytes(16), "pictures_s": [0.0], "pictures": [b"x"]}
    with pa.ipc.new_file(str(tmp_path / "media"), MEDIA) as writer:
        writer.write_table(pa.Table.from_pylist([row | change], MEDIA))
    with pytest.raises(InputError, match=says):
        MediaFile(tmp_path / "media", 1).read(0, 4)
    with pytest.raises(InputError, match="of its 2 videos"):
        MediaFile(tmp_path / "media", 2)


def test_a_video_with_damaged_media_is_found_without_its_seconds(tmp_path, model, shards, capsys):
    index = write_index(tmp_path / "index", model, shards, "train")
    path = index.folder / index.record.segments[0].media
    before = {hit.video_id: hit.seconds for hit in gare.search(index, "a red square", 20)}
    table = pa.ipc.open_file(path).read_all()
    rows = table.to_pylist()
    rows[0]["times_s"] = [float("nan")] * len(rows[0]["times_s"])
    with pa.ipc.new_file(str(path), MEDIA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, MEDIA))
    hits = gare.search(open_index(index.folder), "a red square", 20)
    assert {hit.video_id: hit.seconds for hit in hits} == before | {"train0": None}
    assert capsys.readouterr().err.count("cannot be right") == 1
