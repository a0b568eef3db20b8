"""Which files are sent to browsers, and ranges of files on storage."""

from __future__ import annotations

import os

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from gare.common.errors import InputError
from gare.serving.sources import find_source, parse_range
from tests.s3 import s3_bucket


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-9", range(10)),
        ("bytes=90-", range(90, 100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        ("bytes=100-", None),
        ("bytes=-0", None),
        ("bytes=9-3", None),
        ("bytes=0-1,5-6", range(100)),
        ("bytes=٣-٤", range(100)),
        ("items=0-1", range(100)),
        ("bytes=" + "9" * 400 + "-", range(100)),
    ],
)
def test_a_range_is_read_or_left(header, expected):
    assert parse_range(header, 100) == expected


def test_only_files_that_browsers_play_are_sent(tmp_path):
    def why(uri, codec=""):
        with pytest.raises(InputError) as caught:
            find_source(str(uri), codec)
        return str(caught.value)

    for name in ("a.mp4", "b.avi", "passwd", "c d#é?.webm"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert find_source(str(tmp_path / "a.mp4"), "h264").path == tmp_path / "a.mp4"
    assert find_source((tmp_path / "c d#é?.webm").as_uri(), "").kind == "video/webm"
    assert why(tmp_path / "a.mp4", "mpeg4") == "Browsers do not play mpeg4."
    assert why(tmp_path / "b.avi") == "Browsers do not play avi files."
    assert why(tmp_path / "passwd") == "Browsers do not play such files."
    for name in ("gone.mp4", "pipe.mp4", "folder.mp4"):
        assert why(tmp_path / name) == "The file is gone."
    assert why("https://example.org/a.mp4") == "Files at https addresses are not served."
    assert why("x\0y.mp4").startswith("The file")
    assert why("s3://[/a.mp4") == "Its address cannot be read."
    assert why("s3://bucket/a.avi") == "Browsers do not play avi files."


def test_a_file_on_storage_is_sent_in_ranges(tmp_path):
    content = bytes(range(256)) * 4000
    with pytest.MonkeyPatch.context() as patch, s3_bucket(patch) as address:
        from gare.common.addresses import open_address

        system, path = open_address(address.format("a b.mp4"))
        with system.open_output_stream(path) as stream:
            stream.write(content)

        def sent(request):
            return find_source(address.format("a b.mp4"), "h264").response(request.headers.get("range"))

        client = TestClient(Starlette(routes=[Route("/", sent)]))
        assert client.get("/").content == content
        part = client.get("/", headers={"range": "bytes=300000-900000"})
        assert (part.status_code, part.content) == (206, content[300000:900001])
        assert part.headers["content-range"] == f"bytes 300000-900000/{len(content)}"
        assert client.get("/", headers={"range": f"bytes={len(content)}-"}).status_code == 416
        with pytest.raises(InputError, match="cannot be read"):
            find_source(address.format("none.mp4"), "h264").response(None)
