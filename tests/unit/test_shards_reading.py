"""Reading shards: what is stored comes back, and what does not belong is refused."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gare.common.blocks import BlockFile
from gare.common.dataset_file import read_shard
from gare.common.errors import InputError
from gare.config import DataConfig
from gare.data.batches import View, load_frames
from gare.data.shards import LIGHT, ShardSet, Split
from gare.schema import SHARD_FOLDER
from tests import toy

SECOND = "shards/unit-000001-00.arrow"


@pytest.fixture
def folder(tmp_path):
    return toy.make_shards(tmp_path / "shards", {"train": 6, "dev": 2})


def test_frames_and_captions_come_back_as_stored(folder):
    split = ShardSet(folder).split("train")
    index = [v.video_id for v in split.videos].index("train2")
    assert split.videos[index].captions == ["a blue square left", "left is a blue square"]
    assert split.videos[index].attributes == {"colour": "blue"}
    frames = split.frames(index, 3)
    assert frames.shape == (3, 32, 32, 3)
    assert (frames[:, :16, :16] == toy.COLOURS["blue"]).all()
    assert split.timestamps(index) == [0.0, 1.0, 2.0]


def test_batches_are_padded_with_zeros_behind_the_mask(folder):
    split = ShardSet(folder).split("train")
    frames, mask = load_frames(split, range(len(split)), View(DataConfig(frames=5), 32))
    assert frames.shape == (6, 5, 3, 32, 32)
    assert sorted(mask.sum(1).tolist()) == [1, 1, 2, 2, 3, 3]
    assert (frames.permute(0, 1, 3, 4, 2)[~mask] == 0).all()


def test_more_stored_frames_than_used_are_thinned_with_both_ends_kept(folder):
    split = ShardSet(folder).split("train")
    index = next(i for i in range(len(split)) if len(split.frames(i, 9)) == 3)
    assert np.array_equal(split.frames(index, 2), split.frames(index, 9)[[0, 2]])


def damage(folder, **changes):
    path = folder / "dataset.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "dataset.json").unlink(), "gare prepare did not finish there"),
        (lambda f: (f / "dataset.json").write_text("{"), "is damaged"),
        (lambda f: damage(f, schema_version=99), "schema version 99"),
        (lambda f: damage(f, recipe_digest="other"), "another recipe"),
        (lambda f: (f / SECOND).unlink(), "Cannot read the shard"),
        (lambda f: (f / SECOND).write_bytes(b"junk" * 99), "Cannot read the shard"),
        (lambda f: (f / SECOND).write_bytes((f / SECOND).read_bytes()[:-9]), "Cannot read the shard"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_clear_sentence(folder, break_it, message):
    break_it(folder)
    with pytest.raises(InputError) as caught:
        ShardSet(folder)
    assert message in str(caught.value)


def test_a_folder_that_is_not_there_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        ShardSet(tmp_path / "none")


class Counted:
    """A file in memory that counts what is asked of it."""

    def __init__(self, content):
        self.content, self.requests, self.bytes = content, 0, 0

    def size(self):
        return len(self.content)

    def read_at(self, count, start):
        assert count > 0
        assert start + count <= len(self.content)
        self.requests, self.bytes = self.requests + 1, self.bytes + count
        return self.content[start : start + count]


@given(st.binary(max_size=200), st.integers(1, 50), st.lists(st.tuples(st.integers(0, 220), st.integers(-1, 90))))
def test_a_file_read_in_blocks_is_the_file(content, block, reads):
    plain, blocks = io.BytesIO(content), BlockFile(Counted(content), block)
    for start, count in reads:
        assert blocks.seek(start) == plain.seek(start)
        assert blocks.read(count) == plain.read(count)
        assert blocks.tell() == plain.tell()


def test_columns_without_frames_are_read_with_few_requests(tmp_path):
    made = toy.make_shards(tmp_path / "shards", {"train": 40}, stored=12, shape=(160, 160))
    shards = ShardSet(made)
    entry = shards.manifest["shards"][0]
    known = {"recipe_digest": shards.manifest["recipe_digest"], "rows": entry["rows"]}
    whole = read_shard(made / SHARD_FOLDER / entry["file"], **known)
    source = Counted((made / SHARD_FOLDER / entry["file"]).read_bytes())
    light = read_shard(pa.PythonFile(BlockFile(source, 2**12), mode="r"), name="x", columns=LIGHT, **known)
    assert light.equals(whole.select(LIGHT))
    batches = whole["video_id"].num_chunks
    assert batches > 5
    assert source.requests <= 4 * (batches + 1)
    assert source.bytes < source.size() / 10


def test_a_flipped_offset_is_refused_before_it_is_followed(folder):
    path = folder / SECOND
    data = bytearray(path.read_bytes())
    with pa.OSFile(str(path)) as source:
        ids = pa.ipc.open_file(source).read_all()["video_id"].chunk(0)
        offsets = ids.buffers()[1].to_pybytes()[: 4 * (len(ids) + 1)]
    at = data.find(offsets)
    assert at > 0
    data[at + 4 : at + 8] = (2**31 - 7).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        ShardSet(folder)


def test_an_attribute_without_a_value_is_none_of_the_video(folder):
    with pa.ipc.open_file(folder / SHARD_FOLDER / "unit-000000-00.arrow") as reader:
        table = reader.read_all()
    place = table.schema.get_field_index("attributes")
    pairs = [[("colour", None), ("shape", "square")]] * len(table)
    table = table.set_column(place, table.schema.field(place), pa.array(pairs, table.schema.field(place).type))
    split = Split(folder, "train", [table], lambda *_: True)
    assert {tuple(video.attributes.items()) for video in split.videos} == {(("shape", "square"),)}
