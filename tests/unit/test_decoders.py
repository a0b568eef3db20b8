"""``prepare.decoder``: a decoder is a class and a row, torchcodec gives PyAV's frames, and recipes never mix."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from pydantic import ValidationError

from gare.common.errors import ConfigError, InputError, RunError
from gare.config import Config, PrepareConfig
from gare.config.decoders import DECODERS
from gare.config.decoders import Decoder as Row
from gare.config.prepare import LimitsConfig
from gare.data.shards import ShardSet
from gare.doctor.software import check_decoders
from gare.runs.inputs import check_recipe
from pipelines.dataset.layout import recipe_digest, stated
from pipelines.dataset.opening import existing_output, open_output
from pipelines.decode import DecodedVideo, DecodeError, decode_video
from pipelines.decode import picture as pictures_of_pyav
from pipelines.decode.backends import missing
from pipelines.decode.isolated.decoder import Decoder
from pipelines.decode.planned import Planned
from pipelines.prepare.job import open_job
from tests.prepared import RECIPE, make_sources, prepare
from tests.videos import make_video

TORCHCODEC = RECIPE.model_copy(update={"decoder": "torchcodec"})
NOTE = "decoded_by_pyav"
needs_torchcodec = pytest.mark.skipif(
    find_spec("torchcodec") is None, reason="torchcodec is not installed: pip install 'gare-ray[torchcodec]'"
)


class Grey(Planned):
    """A second decoder, as small as they come: every frame is grey."""

    def pictures(self, wanted, *, alone):
        made = super().pictures(wanted, alone=alone)
        return made and {i: one._replace(picture=np.full_like(one.picture, 128)) for i, one in made.items()}


@pytest.fixture
def grey(monkeypatch):
    monkeypatch.setitem(DECODERS, "grey", Row("tests.unit.test_decoders:Grey"))
    return RECIPE.model_copy(update={"decoder": "grey"})


def test_a_decoder_is_a_class_and_a_row(grey, tmp_path):
    path = make_video(tmp_path / "a.mp4", frames=40)
    made, plain = decode_video(path, recipe=grey), decode_video(path, recipe=RECIPE)
    assert made.timestamps_s == plain.timestamps_s
    assert {int(value) for frame in made.frames for value in np.unique(frame)} == {128}
    assert missing("grey") is None


def test_the_default_decoder_leaves_recipes_and_experiments_their_names():
    assert recipe_digest(PrepareConfig()) == "21b9cf39ca35f59a"
    assert "decoder" not in stated(PrepareConfig())
    assert stated(TORCHCODEC)["decoder"] == "torchcodec"
    assert recipe_digest(TORCHCODEC) != recipe_digest(RECIPE)
    assert Config(prepare={"decoder": "torchcodec"}).digest() != Config().digest()


def test_shards_of_two_decoders_never_mix(tmp_path):
    folder = prepare(tmp_path / "shards", make_sources(tmp_path / "videos"))
    assert existing_output(folder).recipe.decoder == "pyav"
    with pytest.raises(InputError, match=r"another recipe: prepare\.decoder was 'pyav', now 'torchcodec'"):
        open_output(folder, [], TORCHCODEC)
    shards = ShardSet(folder)
    check_recipe(Config(prepare=RECIPE, data={"frames": 3}), shards)
    with pytest.raises(ConfigError, match=r"\(prepare.decoder=torchcodec\).*--set prepare.decoder=pyav"):
        check_recipe(Config(prepare=TORCHCODEC, data={"frames": 3}), shards)


def test_a_decoder_that_is_not_installed_is_a_sentence_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(DECODERS, "torchcodec", Row(DECODERS["torchcodec"].source, "no_such_package"))
    sentence = r"prepare.decoder is torchcodec, which is not installed: python -m pip install 'gare-ray\[no_such_pack"
    with (
        pytest.raises(InputError, match=sentence),
        open_job(tmp_path / "none.parquet", tmp_path / "out", TORCHCODEC),
    ):
        pass
    assert not (tmp_path / "out").exists()
    found = check_decoders()
    assert (found.state, "torchcodec is not installed (optional" in found.says) == ("ok", True)


def test_a_decoder_that_cannot_be_loaded_says_why(tmp_path, monkeypatch):
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise OSError('libavutil.so.60: not there')")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = (
        r"torchcodec, which cannot be loaded \(OSError: libavutil.so.60: not there\): .*set prepare.decoder=pyav\."
    )
    with Decoder() as decoder, pytest.raises(RunError, match=sentence):
        decoder.decode(str(make_video(tmp_path / "a.mp4")), recipe=TORCHCODEC)
    found = check_decoders()
    assert (found.state, "libavutil.so.60" in found.says) == ("warn", True)


def test_torchcodec_goes_with_the_resize_that_it_can_do():
    with pytest.raises(ValidationError, match=r"prepare\.resize swscale does not go with prepare\.decoder torchcodec"):
        PrepareConfig(decoder="torchcodec", resize="swscale")
    with pytest.raises(ValidationError, match="pyav"):
        PrepareConfig(decoder="decord")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as one:
        yield one


def quick_planes(frame, _reformatter, _size=None):
    """Colours as FFmpeg converts them when it is asked for nothing else, which is what torchcodec does."""
    return list(np.moveaxis(frame.to_ndarray(format="rgb24"), -1, 0))


def facts(video: DecodedVideo):
    notes = [note for note in video.notes if note != NOTE]
    return video.timestamps_s, video.codec, video.width, video.height, video.fps, video.duration_s, notes


def decoded(decode, *given, **named) -> DecodedVideo | DecodeError:
    try:
        made = decode(*given, **named)
    except DecodeError as error:
        return error
    return made if isinstance(made, DecodedVideo) else made.video


CLIPS = (
    "tc_bt709_full_range.mp4", "tc_h265_video.mp4", "tc_testsrc2_odd_width_vp9.mp4", "tc_testsrc2_av1_10bit.mp4",
    "exo_video_1.mp4", "decord_video_90.mov", "decord_video_180.mov", "tav_man-skiing.mp4",
    "ax_mp4_sample_portrait.mp4", "skv_chroma2.mp4", "tc_testsrc2_mpeg4.avi", "imageio_newtonscradle.gif",
    "panda_bpA7IQ_g9IQ.36.mp4",
)  # fmt: skip


@needs_torchcodec
def test_torchcodec_gives_the_same_frames_but_for_the_rounding_of_colours(decoder, fixtures_dir, monkeypatch):
    by_torchcodec = 0
    for name in CLIPS:
        path = fixtures_dir / "clips" / "good" / name
        ours = decoded(decode_video, path, recipe=RECIPE)
        theirs = decoded(decoder.decode, str(path), recipe=TORCHCODEC)
        assert facts(theirs) == facts(ours), name
        if NOTE in theirs.notes:
            assert np.array_equal(theirs.frames, ours.frames), name
            continue
        by_torchcodec += 1
        difference = np.abs(np.int64(theirs.frames) - np.int64(ours.frames)).mean()
        assert difference < 4, (name, difference)
        with monkeypatch.context() as patched:
            patched.setattr(pictures_of_pyav, "to_planes", quick_planes)
            quick = decode_video(path, recipe=RECIPE)
        assert np.abs(np.int64(theirs.frames) - np.int64(quick.frames)).max() <= (8 if "10bit" in name else 1), name
    assert by_torchcodec >= 8


@needs_torchcodec
def test_where_torchcodec_would_show_other_colours_pyav_decodes_and_the_row_says_so(decoder, tmp_path):
    plain = make_video(tmp_path / "sd.mp4", frames=30)
    tall = make_video(tmp_path / "hd.mp4", frames=30, size=(64, 720))
    assert NOTE not in decoder.decode(str(plain), recipe=TORCHCODEC).video.notes
    made = decoder.decode(str(tall), recipe=TORCHCODEC).video
    assert made.notes == [NOTE]
    assert np.array_equal(made.frames, decode_video(tall, recipe=RECIPE).frames)


@needs_torchcodec
def test_clips_of_a_file_do_not_depend_on_each_other(decoder, tmp_path):
    from pipelines.decode import Clip

    path = make_video(tmp_path / "a.mp4", frames=80, gop=10)
    clips = [Clip(), Clip(0.5, 1.5), Clip(99.0), Clip(2.0)]
    together = list(decoder.decode_clips(str(path), recipe=TORCHCODEC, clips=clips))
    assert [getattr(one, "kind", "ok") for one in together] == ["ok", "ok", "empty_clip", "ok"]
    for clip, one in zip(clips, together, strict=True):
        if not isinstance(one, DecodeError):
            alone = decoder.decode(str(path), recipe=TORCHCODEC, start_s=clip.start_s, end_s=clip.end_s)
            assert np.array_equal(one.video.frames, alone.video.frames)


@needs_torchcodec
@pytest.mark.parametrize("folder", ["broken", "hostile"])
def test_broken_and_hostile_files_come_to_the_same_with_torchcodec(decoder, fixtures_dir, folder):
    """Only damage inside of a picture, which torchcodec does not tell of, may go unnoticed."""
    unnoticed = []
    for path in sorted((fixtures_dir / "clips" / folder).iterdir())[::3]:
        ours = decoded(decode_video, path, recipe=RECIPE)
        theirs = decoded(decoder.decode, str(path), recipe=TORCHCODEC)
        if isinstance(ours, DecodeError) or isinstance(theirs, DecodeError):
            assert getattr(ours, "kind", "ok") == getattr(theirs, "kind", "ok"), path.name
        elif facts(ours) != facts(theirs):
            assert (ours.notes, theirs.notes) == (["partial"], []), path.name
            unnoticed.append(path.name)
    assert len(unnoticed) <= 1


@needs_torchcodec
def test_limits_hold_with_torchcodec(decoder, tmp_path):
    playlist = tmp_path / "list.mp4"
    video = make_video(tmp_path / "a.mp4", frames=40, size=(640, 480))
    playlist.write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    small = TORCHCODEC.model_copy(update={"limits": LimitsConfig(max_pixels=1000)})
    for path, recipe, kind in (
        (playlist, TORCHCODEC, "unreadable"),
        (tmp_path / "pipe.mp4", TORCHCODEC, "not_a_file"),
        (video, small, "too_many_pixels"),
    ):
        assert decoded(decoder.decode, str(path), recipe=recipe).kind == kind
    assert decoder.decode(str(video), recipe=TORCHCODEC).video.notes == []
    pid = decoder._decoding.pid
    assert decoder.decode(str(video), recipe=RECIPE).video.notes == []
    assert decoder._decoding.pid != pid  # another process, which never loaded torchcodec
