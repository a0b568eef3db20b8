"""Remote videos: copied within limits, decoded as local files, and nothing left behind."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import FileInfo, FileSystemHandler, FileType, PyFileSystem

from gare.common.files import file_digest
from gare.config.prepare import LimitsConfig, PrepareConfig
from gare.schema import MANIFEST
from pipelines.dataset.ledger import read_ledger
from pipelines.dataset.opening import open_output
from pipelines.decode import KINDS, DecodeError, decode_video
from pipelines.decode.isolated import fetching
from pipelines.decode.isolated.decoder import Decoder
from pipelines.decode.isolated.fetching import FETCHED, fetch, local_path, suffix_of
from pipelines.decode.isolated.messages import FetchRequest
from pipelines.manifest.rows import located
from pipelines.prepare.process_unit import process_unit
from tests.videos import make_video

RECIPE = PrepareConfig(max_frames=3, short_side=32, crop=32, limits=LimitsConfig(max_bytes=200_000, wait_seconds=60.0))
FETCHING = "tests.fetching_worker"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Make an empty folder the system's temporary one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    fetching._remove_leftovers.cache_clear()
    yield folder
    fetching._remove_leftovers.cache_clear()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = tmp_path / "bucket"
    folder.mkdir()
    monkeypatch.setenv("GARE_TEST_BUCKET", str(folder))
    return folder


@pytest.fixture
def decoder(bucket):
    with Decoder(fetch_module=FETCHING) as made:
        yield made


def failure(decoder: Decoder, uri: str, recipe: PrepareConfig = RECIPE) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decoder.decode(uri, recipe=recipe)
    assert caught.value.kind in KINDS
    return caught.value


# Addresses


@pytest.mark.parametrize("scheme", sorted(FETCHED))
def test_addresses_of_file_systems_are_fetched(scheme):
    assert local_path(f"{scheme}://bucket/a.mp4") is None
    assert local_path(f"{scheme.upper()}://bucket/a.mp4") is None


def test_paths_and_file_addresses_are_local():
    assert local_path("/a b/c#1.mp4") == Path("/a b/c#1.mp4")
    assert local_path("file:///a%20b/c.mp4") == Path("/a b/c.mp4")
    assert local_path("file://localhost/c.mp4") == Path("/c.mp4")


@pytest.mark.parametrize(
    "uri", ["http://x/a.mp4", "https://x/a.mp4", "concat://a", "mock://a", "file://host/a", "://a", "s3://[::1/a"]
)
def test_other_addresses_are_refused(uri):
    with pytest.raises(DecodeError) as caught:
        local_path(uri)
    assert caught.value.kind == "unsupported_uri"


def test_a_suffix_is_kept_when_it_is_one():
    assert suffix_of("s3://b/a%20b/video.tar.MP4?region=x") == ".MP4"
    assert suffix_of("s3://b/video") == ""
    assert suffix_of("s3://b/video.a%2Fb") == ""
    assert suffix_of("s3://b/video." + "a" * 200) == ""


def test_a_manifest_keeps_addresses_as_they_are(tmp_path):
    for scheme in FETCHED:
        assert located(f"{scheme}://bucket/a b.mp4", tmp_path) == f"{scheme}://bucket/a b.mp4"


# Fetching and decoding


@pytest.mark.parametrize(("suffix", "container"), [(".mp4", None), (".h264", "h264"), ("", "mp4")])
def test_a_remote_video_is_decoded_as_a_local_one(decoder, bucket, temporary, suffix, container):
    path = make_video(bucket / f"a b{suffix}", frames=40, container=container)
    remote = decoder.decode(f"s3://bucket/a%20b{suffix}", recipe=RECIPE)
    local = decode_video(path, recipe=RECIPE)
    assert remote.video.timestamps_s == local.timestamps_s
    assert [f.tobytes() for f in remote.video.frames] == [f.tobytes() for f in local.frames]
    assert (remote.bytes, remote.sha256, remote.attempts) == (path.stat().st_size, file_digest(path), 1)
    assert list(temporary.iterdir()) == []


def test_what_cannot_be_fetched_has_a_kind_and_leaves_nothing(decoder, bucket, temporary):
    (bucket / "large.mp4").write_bytes(bytes(200_001))
    (bucket / "empty.mp4").touch()
    (bucket / "text.mp4").write_text("no video")
    (bucket / "folder").mkdir()
    expected = {
        "none.mp4": "missing", "large.mp4": "too_large", "empty.mp4": "empty_file", "text.mp4": "unreadable",
        "folder": "not_a_file",
    }  # fmt: skip
    assert {name: failure(decoder, f"s3://bucket/{name}").kind for name in expected} == expected
    assert list(temporary.iterdir()) == []


def test_a_stalled_connection_is_unreachable_and_not_the_videos_fault(decoder, bucket, temporary):
    make_video(bucket / "a.mp4", frames=40)
    limits = RECIPE.limits.model_copy(update={"wait_seconds": 0.3})
    assert failure(decoder, "s3://stalled/a.mp4", RECIPE.model_copy(update={"limits": limits})).kind == "unreachable"
    assert len(decoder.decode("s3://bucket/a.mp4", recipe=RECIPE).video.frames) == 3
    assert list(temporary.iterdir()) == []


def test_a_unit_mixes_local_and_remote_videos(decoder, bucket, tmp_path, temporary):
    path = make_video(bucket / "a.mp4", frames=40)
    uris = [str(path), "s3://bucket/a.mp4", "http://bucket/a.mp4", "s3://bucket/none.mp4"]
    rows = [{"video_id": str(n), "uri": uri, "split": "train", "captions": []} for n, uri in enumerate(uris)]
    output = open_output(tmp_path / "out", pa.Table.from_pylist(rows, schema=MANIFEST), RECIPE)
    process_unit(output, 0, decoder)
    assert [row["reason"] for row in read_ledger(output, 0)[0]] == [None, None, "unsupported_uri", "missing"]
    one, other = pa.ipc.open_file(output.shards / "unit-000000-00.arrow").read_all().to_pylist()
    same = [name for name in one if name not in ("video_id", "uri")]
    assert {name: one[name] for name in same} == {name: other[name] for name in same}


@pytest.mark.slow
def test_a_server_that_is_not_there_is_unreachable(monkeypatch, free_port):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    uri = f"s3://bucket/a.mp4?endpoint_override=127.0.0.1:{free_port}&scheme=http&region=us-east-1"
    with Decoder() as decoder:
        assert failure(decoder, uri).kind == "unreachable"


# A file system with a will of its own


class Odd(FileSystemHandler):
    """One file of 100 bytes, as stated; what comes is what a test says."""

    def __init__(self, content, size=100, error=None):
        self.content, self.size, self.error = content, size, error

    def get_type_name(self):
        return "odd"

    def get_file_info(self, paths):
        return [FileInfo(path, FileType.File, size=self.size) for path in paths]

    def open_input_stream(self, _, **_options):
        if isinstance(self.content, Exception):
            raise self.content
        return pa.PythonFile(Breaking(self.content, self.error), mode="r")

    def _no(self, *arguments):
        raise NotImplementedError

    copy_file = create_dir = delete_dir = delete_dir_contents = delete_file = delete_root_dir_contents = move = _no
    get_file_info_selector = normalize_path = open_append_stream = open_input_file = open_output_stream = _no


class Breaking(BytesIO):
    def __init__(self, content, error):
        super().__init__(content)
        self.error = error

    def read(self, size=-1):
        data = super().read(size)
        if not data and self.error is not None:
            raise self.error
        return data


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (Odd(bytes(10**6)), "too_large"),
        (Odd(bytes(10**6), size=None), "too_large"),
        (Odd(bytes(10**6), size=10**6), "too_large"),
        (Odd(bytes(99)), "unreachable"),
        (Odd(bytes(101)), "unreachable"),
        (Odd(b""), "unreachable"),
        (Odd(b"", size=0), "empty_file"),
        (Odd(b"", size=None), "empty_file"),
        (Odd(bytes(50), error=FileNotFoundError("vanished")), "unreachable"),
        (Odd(bytes(50), error=ConnectionResetError("reset")), "unreachable"),
        (Odd(bytes(50), error=pa.ArrowInvalid("odd\nand more")), "unreachable"),
        (Odd(FileNotFoundError("gone")), "missing"),
        (Odd(PermissionError("no")), "unreachable"),
    ],
)
def test_a_file_system_that_lies_or_breaks(tmp_path, odd, kind):
    target = tmp_path / "copy"
    request = FetchRequest(id=1, limits=RECIPE.limits, uri="s3://b/a", path=str(target))
    with pytest.raises(DecodeError) as caught:
        fetch(request, lambda _: (PyFileSystem(odd), "a"))
    assert caught.value.kind == kind
    assert "\n" not in caught.value.message
    assert not target.exists() or target.stat().st_size <= RECIPE.limits.max_bytes


def test_a_size_that_is_not_stated_is_counted(tmp_path):
    request = FetchRequest(id=1, limits=RECIPE.limits, uri="s3://b/a", path=str(tmp_path / "copy"))
    copied, _ = fetch(request, lambda _: (PyFileSystem(Odd(bytes(1234), size=None)), "a"))
    assert (copied.bytes, copied.sha256) == (1234, file_digest(tmp_path / "copy"))


@pytest.mark.parametrize("error", [pa.ArrowInvalid("x"), pa.ArrowNotImplementedError("x"), ImportError("x")])
def test_an_address_no_file_system_understands(tmp_path, error):
    def resolve(_):
        raise error

    request = FetchRequest(id=1, limits=RECIPE.limits, uri="s3://b/a", path=str(tmp_path / "copy"))
    with pytest.raises(DecodeError, match="unsupported_uri"):
        fetch(request, resolve)


# Scratch files


def test_a_killed_process_leaves_a_copy_that_the_next_one_removes(temporary):
    code = (
        "import sys, tempfile, time\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "from pipelines.decode.isolated.fetching import scratch_file\n"
        "with scratch_file('.mp4') as path:\n"
        "    print(path, flush=True)\n"
        "    time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, temporary], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    left = Path(other.stdout.readline().strip())
    (temporary / "gare-fetched-folder").mkdir()
    with fetching.scratch_file(".mp4") as path:
        assert left.exists()  # its owner is at work
        assert path.suffix == ".mp4"
        other.kill()
        other.wait()
        other.stdout.close()
        fetching._remove_leftovers.cache_clear()
        with fetching.scratch_file(".mp4"):
            assert not left.exists()
            assert path.exists()
    assert [p.name for p in temporary.iterdir()] == ["gare-fetched-folder"]


def test_without_locks_no_copy_is_taken_for_a_leftover(temporary, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with fetching.scratch_file("") as path:
        fetching._remove_leftovers.cache_clear()  # as another process
        with fetching.scratch_file(""):
            assert path.exists()


def test_a_copy_taken_for_a_leftover_before_it_was_locked_is_made_anew(temporary, monkeypatch):
    real, taken = tempfile.mkstemp, []

    def taking(**arguments):
        handle, name = real(**arguments)
        if not taken:
            taken.append(name)
            Path(name).unlink()
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", taking)
    with fetching.scratch_file("") as path:
        assert path.exists()
        assert str(path) != taken[0]
