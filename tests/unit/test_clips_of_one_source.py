"""Rows of one source: opened, digested and fetched once, and each row as if it were alone."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gare.common.errors import InputError
from gare.config.prepare import LimitsConfig, PrepareConfig
from gare.schema import MANIFEST, SHARD, stamped
from pipelines.dataset import shard_rows
from pipelines.dataset.ledger import read_ledger
from pipelines.dataset.opening import open_output
from pipelines.decode import Clip, DecodeError, clip_job, decode_video, errors
from pipelines.decode.isolated.decoder import Decoder
from pipelines.prepare import attempts
from pipelines.prepare.attempts import Aside, in_order
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

LIMITS = LimitsConfig(cpu_seconds=1.0, wait_seconds=60.0, memory_bytes=256 * 2**20)
RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, limits=LIMITS)
CLIPS = [Clip(0.0, 1.0), Clip(1.0, 2.0), Clip(2.0, 3.0), Clip(99.0, None), Clip(0.5, 2.5)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("good") / "good.mp4", frames=60, gop=10)


@pytest.fixture(scope="module")
def decoder():
    with Decoder("tests.crashing_worker") as made:
        yield made


def outcomes(given):
    return [(one.kind, one.attempts) if isinstance(one, DecodeError) else ("ok", one.attempts) for one in given]


def manifest(rows):
    made = [
        {"video_id": str(n), "uri": str(uri), "split": "train", "captions": [], "start_s": start, "end_s": end}
        for n, (uri, start, end) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, MANIFEST)


# What is decoded


def test_clips_are_what_each_is_alone(decoder, good):
    together = list(decoder.decode_clips(str(good), recipe=RECIPE, clips=CLIPS))
    assert outcomes(together) == [("ok", 1)] * 3 + [("empty_clip", 1), ("ok", 1)]
    for given, clip in zip(together, CLIPS, strict=True):
        if not isinstance(given, DecodeError):
            alone = decoder.decode(str(good), recipe=RECIPE, start_s=clip.start_s, end_s=clip.end_s)
            assert (given.sha256, given.bytes, given.mtime_ns) == (alone.sha256, alone.bytes, alone.mtime_ns)
            assert given.video.timestamps_s == alone.video.timestamps_s
            np.testing.assert_array_equal(given.video.frames, alone.video.frames)


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        ("segfault", ("crashed", 2)),
        ("allocate", ("memory", 2)),
        ("spin", ("timeout", 2)),
        ("raise", ("internal", 2)),
        ("exit", ("crashed", 2)),
    ],
)
def test_a_clip_that_breaks_the_decoder_fails_alone(decoder, good, tmp_path, act, outcome):
    path = shutil.copy(good, tmp_path / f"clip-{act}.mp4")
    given = outcomes(decoder.decode_clips(str(path), recipe=RECIPE, clips=CLIPS))
    assert given == [("ok", 1), ("ok", 1), outcome, ("empty_clip", 1), ("ok", 1)]


def test_a_clip_that_is_decoded_with_one_that_breaks_the_decoder_is_decoded_alone(decoder, good, tmp_path):
    path = shutil.copy(good, tmp_path / "ahead-segfault.mp4")
    given = outcomes(decoder.decode_clips(str(path), recipe=RECIPE, clips=CLIPS))
    assert given == [("ok", 2), ("ok", 2), ("crashed", 2), ("empty_clip", 1), ("ok", 1)]


def test_a_file_that_storage_does_not_give_costs_one_wait(decoder, good, tmp_path):
    path = shutil.copy(good, tmp_path / "sleep.mp4")
    recipe = RECIPE.model_copy(update={"limits": LIMITS.model_copy(update={"wait_seconds": 0.3})})
    assert outcomes(decoder.decode_clips(str(path), recipe=recipe, clips=CLIPS)) == [("timeout", 1)] * 5


def test_clips_that_are_not_wanted_any_more_are_no_answer_to_the_next(decoder, good):
    given = decoder.decode_clips(str(good), recipe=RECIPE, clips=CLIPS)
    next(given)
    given.close()
    assert decoder.decode(str(good), recipe=RECIPE, start_s=1.0).attempts == 1


def test_a_remote_file_is_fetched_once_even_where_a_clip_crashes(good, tmp_path, monkeypatch):
    monkeypatch.setenv("GARE_TEST_BUCKET", str(good.parent))
    fetched, fetch = [], Decoder._fetch
    monkeypatch.setattr(Decoder, "_fetch", lambda self, *rest: (fetched.append(1), fetch(self, *rest))[1])
    with Decoder(fetch_module="tests.fetching_worker") as remote:
        for number, given in enumerate(remote.decode_clips("s3://bucket/good.mp4", recipe=RECIPE, clips=CLIPS)):
            if number == 0:
                remote._decoding.end()
            assert isinstance(given, DecodeError) == (number == 3)
        assert len(fetched) == 1
        missing = remote.decode_clips("s3://bucket/none.mp4", recipe=RECIPE, clips=CLIPS[:2])
        assert outcomes(missing) == [("missing", 1)] * 2


# What is stored


def test_a_unit_stores_rows_in_its_own_order_with_one_opening_per_source(decoder, good, tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "BATCH_BYTES", 0)
    other = make_video(tmp_path / "other.mp4", frames=40)
    rows = [(good, 0, 1), (other, None, None), (good, 2, 3), (tmp_path / "none", 0, 1), (other, 1, 2), (good, 1, 2)]
    together = open_output(tmp_path / "together", manifest(rows), RECIPE)
    asked, answers = [], Decoder._answers
    monkeypatch.setattr(
        Decoder,
        "_answers",
        lambda self, source, *rest: (asked.append(source.path.name), answers(self, source, *rest))[1],
    )
    assert process_unit(together, 0, decoder).failed == 1
    assert asked == ["good.mp4", "other.mp4", "none"]
    alone = open_output(tmp_path / "alone", manifest(rows), RECIPE)
    monkeypatch.setattr(attempts, "by_source", lambda rows: [[one] for one in rows.items()])
    process_unit(alone, 0, decoder)
    assert len(asked) == 3 + len(rows)
    ledgers = [[{**row, "decode_s": 0} for row in read_ledger(output, 0)[0]] for output in (together, alone)]
    assert ledgers[0] == ledgers[1]
    assert read_ledger(together, 0)[1] == read_ledger(alone, 0)[1]  # by their SHA-256


@pytest.mark.parametrize("room", [0, 100, 10**6])
def test_what_comes_early_waits_in_memory_or_in_a_file(room, monkeypatch):
    monkeypatch.setattr(attempts, "BATCH_BYTES", room)
    monkeypatch.setattr(Aside.__init__, "__defaults__", (room,))
    made = {n: ({"n": n}, None if n == 3 else {"n": n, "frames": [bytes([n]) * 40, b"", b"x"]}) for n in range(6)}
    came = [(n, made[n]) for n in (4, 0, 3, 5, 2, 1)]
    assert list(in_order(came, range(6))) == [made[n] for n in range(6)]


def test_frames_are_written_as_pyarrow_would():
    frames = [memoryview(bytes(range(n))) for n in (3, 0, 5)]
    row = {"video_id": "a", "split": "s", "captions": ["x"], "attributes": None, "frame_codec": "raw", "height": 1}
    row |= {"width": 1, "timestamps_s": [0.0], "uri": "u", "source_codec": "c", "source_width": 1, "source_height": 1}
    row |= {"source_fps": None, "source_duration_s": 1.0, "source_bytes": 1, "source_sha256": "0"}
    rows = [{**row, "frames": frames}, {**row, "frames": frames[:1]}]
    schema = stamped(SHARD, recipe_digest="d", unit=0)
    sinks = [pa.BufferOutputStream(), pa.BufferOutputStream()]
    for sink, batch in zip(
        sinks, (shard_rows._batch(rows, schema), pa.RecordBatch.from_pylist(rows, schema)), strict=True
    ):
        with pa.ipc.new_file(sink, schema) as made:
            made.write_batch(batch)
    assert sinks[0].getvalue().equals(sinks[1].getvalue())


# Rows that are too big


def big(**limits):
    return PrepareConfig(short_side=512, crop=512, limits=LimitsConfig(**limits))


@pytest.mark.parametrize("policy", ["fps_linspace", "uniform"])
def test_frames_that_do_not_fit_a_row_are_refused_before_they_are_made(good, monkeypatch, policy):
    monkeypatch.setattr(errors, "ROW_BYTES", 2 * 512 * 512 * 3)
    made, picture = [], clip_job.picture
    monkeypatch.setattr(clip_job, "picture", lambda *given: (made.append(1), picture(*given))[1])
    with pytest.raises(
        DecodeError, match=r"frames of 512 x 512 pixels .* prepare.max_frames, prepare.short_side"
    ) as caught:
        decode_video(good, recipe=big().model_copy(update={"policy": policy}))
    assert caught.value.kind == "too_many_bytes"
    assert len(made) <= 1  # the one that times count from


def test_frames_that_do_not_fit_the_memory_name_the_limit(good):
    recipe = PrepareConfig(short_side=3000, crop=3000, limits=LimitsConfig(memory_bytes=64 * 2**20))
    with pytest.raises(DecodeError, match=r"prepare.limits.memory_bytes") as caught:
        decode_video(good, recipe=recipe)
    assert caught.value.kind == "too_many_bytes"


def test_a_batch_never_holds_more_than_arrow_counts(good, tmp_path, monkeypatch):
    recipe = RECIPE.model_copy(update={"unit_videos": 4})
    monkeypatch.setattr(shard_rows, "ROW_BYTES", 5 * 32 * 32 * 3)
    output = open_output(tmp_path / "out", manifest([(good, 0, n) for n in (1, 2, 3)]), recipe)
    process_unit(output, 0)
    reader = pa.ipc.open_file(pa.memory_map(str(output.shards / "unit-000000-00.arrow")))
    assert [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)] == [2, 1]


# Storage that gives or takes nothing


@pytest.mark.parametrize(
    ("error", "kind"), [(PermissionError(13, "Permission denied"), "no_permission"), (OSError(5, "I/O"), "unreachable")]
)
def test_a_file_that_cannot_be_read_is_not_called_damaged(good, monkeypatch, error, kind):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DecodeError, match=r"Cannot read .*good.mp4") as caught:
        decode_video(good, recipe=RECIPE)
    assert caught.value.kind == kind


@pytest.mark.parametrize("lacking", [1, 2000, None])
def test_a_disk_that_takes_no_more_names_the_file(decoder, good, tmp_path, lacking):
    """The room ends in what closing the last shard adds, in the middle of it, or before it."""
    whole = open_output(tmp_path / "whole", manifest([(good, 0, 1)]), RECIPE)
    process_unit(whole, 0, decoder)
    room = (whole.shards / "unit-000000-00.arrow").stat().st_size - lacking if lacking else 0
    output = open_output(tmp_path / "out", manifest([(good, 0, 1)]), RECIPE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = iter(list(attempts.attempts(dict(enumerate(output.rows(0))), RECIPE, decoder)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(InputError, match=r"Cannot write .*shards/unit-000000-00.arrow: .*File too large"):
            process_unit(output, 0, tries=lambda *_: made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(output.shards.iterdir()) == []
    assert read_ledger(output, 0) is None
