"""The packets of an MP4 that its index lists are those that reading the file through gives, however the index lies."""

from __future__ import annotations

import struct
from contextlib import suppress

import av
import numpy as np
import pytest

from pipelines.decode import DecodeError, decode_video, listed
from pipelines.decode import video as video_module
from pipelines.decode.clip_job import ClipJob
from pipelines.decode.errors import Budget
from pipelines.decode.listed import list_packets
from pipelines.decode.planned import read_packets
from tests.made_tracks import make_track
from tests.unit.test_decode import RECIPE, encoded
from tests.unit.test_planned_equals_plain import outcome
from tests.videos import make_video, remux

COLUMNS = ("pts", "places", "sizes", "keys", "shown")


@pytest.fixture(autouse=True)
def every_length(monkeypatch):
    """Short files are listed too."""
    monkeypatch.setattr(listed, "FEWEST", 1)
    av.logging.set_level(av.logging.PANIC)


def job_of(path):
    return ClipJob(path, RECIPE, None, None, Budget(600.0))


def by_index(path):
    """The packets that the index lists, with the orientation that the first one states; None if it does not tell."""
    job = job_of(path)
    with job.open() as track:
        packets = list_packets(job, track)
        return None if packets is None else (packets, track.orientation)


def differing(path, packets, orientation) -> list[str]:
    """What reading the file through finds otherwise."""
    job = job_of(path)
    with job.open() as track:
        read = read_packets(job, track, keep=False)
        found = [name for name in COLUMNS if not np.array_equal(getattr(packets, name), getattr(read.packets, name))]
        found += ["doubts"] * (packets.doubts != read.packets.doubts)
        found += ["records"] * any(packets[i] != read.packets[i] for i in range(len(packets)))
        found += ["damage"] * (track.damaged or read.packets.new_parameters or not read.trusted)
        return found + ["orientation"] * (track.orientation != orientation)


def check(paths) -> tuple[int, list[str]]:
    """How many files have an index that tells their packets, and what is wrong with some."""
    count, wrong = 0, []
    for path in paths:
        with suppress(DecodeError):
            listing = by_index(path)
            if listing is not None:
                count += 1
                wrong += [f"{path.name}: {what}" for what in differing(path, *listing)]
    return count, wrong


@pytest.mark.parametrize(("folder", "least"), [("good", 100), ("broken", 1), ("hostile", 10)])
def test_real_files(fixtures_dir, folder, least):
    count, wrong = check(sorted((fixtures_dir / "clips" / folder).glob("*.m*")))
    assert not wrong
    assert count >= least


def test_made_files(tmp_path):
    """Of many kinds, with B-frames, variable rates, cut starts, lost packets and damaged bytes."""
    paths = [make_track(tmp_path, seed).path for seed in range(400, 440)]
    count, wrong = check(path for path in paths if path.suffix in (".mp4", ".mov"))
    assert not wrong
    assert count >= 1


@pytest.mark.parametrize(
    "settings",
    [
        "bframes=0:scenecut=0", "bframes=3:b-pyramid=normal:open-gop=1:scenecut=0", "intra-refresh=1:bframes=0",
        "ref=1:bframes=0:scenecut=90:min-keyint=30", "ref=4:bframes=2:scenecut=90:min-keyint=30",
        "slices=4:bframes=1", "aud=1:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500", "repeat-headers=1:ref=1:scenecut=90",
    ],
)  # fmt: skip
def test_encoders_that_write_other_units(tmp_path, settings):
    options = {"preset": "ultrafast", "x264-params": settings}
    path = make_video(tmp_path / "a.mp4", frames=72, gop=30, size=(64, 48), options=options)
    assert check([path])[1] == []


BOXES = [b"moov", b"trak", b"mdia", b"minf", b"stbl"]


def box(data: bytes, *names: bytes) -> tuple[int, int]:
    """The first byte, header included, and the end of a box by its path."""
    at, end = 0, len(data)
    for name in names:
        while data[at + 4 : at + 8] != name:
            at += struct.unpack_from(">I", data, at)[0]
            assert at < end, names
        start, end = at, at + struct.unpack_from(">I", data, at)[0]
        at += 8
    return start, end


def table(data: bytes, name: bytes) -> tuple[int, int]:
    return box(data, *BOXES, name)


def with_numbers(data: bytearray, name: bytes, at: int, *numbers: int) -> None:
    """Write 32-bit numbers into a table, ``at`` bytes after its header."""
    struct.pack_into(f">{len(numbers)}i", data, table(data, name)[0] + 8 + at, *numbers)


def swap_offsets(data):
    start = table(data, b"ctts")[0] + 16
    rows = [data[start + 8 * i : start + 8 * i + 8] for i in range(4)]
    data[start : start + 32] = b"".join(rows[::-1])


def shrink(data):
    """Take the last eight bytes of ctts away and put a free box there."""
    start, end = table(data, b"ctts")
    data[end - 8 : end] = struct.pack(">I4s", 8, b"free")
    struct.pack_into(">I", data, start, end - start - 8)


def rename(old, new):
    def change(data):
        start = table(data, old)[0]
        data[start + 4 : start + 8] = new

    return change


LIES = {
    "offsets of a whole row swapped": swap_offsets,
    "a far offset": lambda data: with_numbers(data, b"ctts", 12, 2**29),
    "a negative offset": lambda data: with_numbers(data, b"ctts", 12, -512),
    "a run of no packets": lambda data: with_numbers(data, b"ctts", 8, 0),
    "more offsets than packets": lambda data: with_numbers(data, b"ctts", 8, 1000),
    "fewer rows than stated": shrink,
    "no offsets": rename(b"ctts", b"free"),
    "no keyframes listed": rename(b"stss", b"free"),
    "a keyframe that is none": lambda data: with_numbers(data, b"stss", 12, 5),
    "wrong sizes": lambda data: with_numbers(data, b"stsz", 12 + 4 * 7, 9, 9),
    "huge sizes": lambda data: with_numbers(data, b"stsz", 12 + 4 * 7, 10**7),
    "fewer sizes": lambda data: with_numbers(data, b"stsz", 8, 30),
    "two descriptions": lambda data: with_numbers(data, b"stsd", 4, 2),
    "packets elsewhere": lambda data: with_numbers(data, b"stco", 8, 100),
    "long durations": lambda data: with_numbers(data, b"stts", 12, 2**30),
    "cut off": lambda data: data.__delitem__(slice(len(data) * 2 // 3, None)),
    "a hole": lambda data: data.__setitem__(slice(len(data) // 2, len(data) // 2 + 64), bytes(64)),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of several GOPs with B-frames, whose index comes first."""
    path = tmp_path_factory.mktemp("made") / "a.mp4"
    options = {"bf": "3", "preset": "ultrafast", "b_strategy": "0"}
    make_video(path, frames=60, gop=12, size=(64, 48), options=options)
    return remux(path, path.with_stem("first"), every, {"movflags": "faststart"})


def every(*packet):
    return bool(packet)


def both(path, monkeypatch):
    """What decoding gives with the index and without it."""
    made = []
    for least in (1, 10**9):
        monkeypatch.setattr(listed, "FEWEST", least)
        try:
            made.append(outcome(decode_video(path, recipe=RECIPE)))
        except DecodeError as error:
            made.append(outcome(error))
    return made


def test_a_plain_index_is_used(source, monkeypatch):
    packets, _ = by_index(source)
    assert len(packets) == 60
    monkeypatch.setattr(video_module, "read_packets", None)
    assert len(decode_video(source, recipe=RECIPE).frames) == RECIPE.max_frames


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_changes_nothing(source, tmp_path, monkeypatch, lie):
    data = bytearray(source.read_bytes())
    LIES[lie](data)
    path = tmp_path / "lies.mp4"
    path.write_bytes(data)
    assert check([path])[1] == []
    with_index, without = both(path, monkeypatch)
    assert with_index == without


def test_every_byte_of_the_index_may_be_wrong(source, tmp_path, monkeypatch):
    good = source.read_bytes()
    start, end = box(good, b"moov")
    draw = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(good)
        for at in draw.integers(start, end, size=draw.integers(1, 4)):
            data[at] = draw.integers(256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        assert check([path])[1] == [], number
        with_index, without = both(path, monkeypatch)
        assert with_index == without, number


@pytest.mark.parametrize(
    "movflags", ["frag_keyframe", "empty_moov+frag_every_frame", "negative_cts_offsets", "rtphint"]
)
def test_other_ways_of_writing(source, tmp_path, monkeypatch, movflags):
    path = remux(source, tmp_path / "other.mp4", every, {"movflags": movflags})
    count, wrong = check([path])
    assert not wrong
    assert count == (not movflags.startswith(("frag", "empty")))
    with_index, without = both(path, monkeypatch)
    assert with_index == without


@pytest.mark.parametrize("wrong", ["keys", "pts"])
def test_a_record_that_is_wrong_all_the_same_is_noticed_and_the_file_read_through(source, monkeypatch, wrong):
    wanted = both(source, monkeypatch)[1]
    true, read = listed.Packets.of_columns, []

    def of_columns(pts, dts, pos, size, keys, flags):
        if wrong == "keys":
            keys = np.arange(len(keys)) % 5 == 0
        else:
            pts = np.where(np.arange(len(pts)) == 30, pts + 1, pts)
        return true(pts, dts, pos, size, keys, flags)

    monkeypatch.setattr(listed.Packets, "of_columns", of_columns)
    monkeypatch.setattr(
        video_module, "read_packets", lambda *job, keep: read.append(keep) or read_packets(*job, keep=keep)
    )
    monkeypatch.setattr(listed, "FEWEST", 1)
    assert outcome(decode_video(source, recipe=RECIPE)) == wanted
    assert read == [True]


def test_files_are_examined_in_windows_and_packets_of_very_many_units_are_read_through(tmp_path, monkeypatch):
    path = encoded(tmp_path, "h264_bframes")
    monkeypatch.setattr(listed, "WINDOW", 1000)
    assert check([path]) == (1, [])
    monkeypatch.setattr(listed, "MOST_UNITS", 1)
    assert by_index(path) is None  # the first packet has messages too


def test_a_short_file_is_read_through(source, monkeypatch):
    monkeypatch.setattr(listed, "FEWEST", 61)
    job = job_of(source)
    with job.open() as track:
        assert list_packets(job, track) is None
        assert not track.begun
