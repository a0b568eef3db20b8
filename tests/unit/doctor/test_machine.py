"""Disk, memory, limits, clock, storage, tracker and token, each broken on purpose."""

from __future__ import annotations

import http.server
import os
import shutil
import threading

import pytest

from gare.common.storage import Folder
from gare.doctor import places
from gare.doctor.every import Wanted, look
from gare.doctor.finding import examine, ok
from gare.doctor.machine import GIB, check_clock, check_disk, check_open_files, check_shared_memory
from gare.doctor.places import check_readable, check_token, check_tracker, check_writable, probe

SECRET = "0123456789abcdef"  # noqa: S105 - made up


@pytest.mark.parametrize(
    ("free", "total", "state"),
    [(500 * GIB, 1000 * GIB, "ok"), (5 * GIB, 50 * GIB, "warn"), (GIB - 1, 10 * GIB, "fail"), (40, 1000, "fail"),
     (40 * GIB, 1000 * GIB, "fail")],
)  # fmt: skip
def test_a_full_disk_is_found(tmp_path, free, total, state):
    found = check_disk(tmp_path, free=free, total=total)
    assert (found.state, bool(found.fix)) == (state, state != "ok")


def test_the_disk_of_this_machine_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100 * GIB, 99 * GIB, GIB // 2))
    assert check_disk(tmp_path).state == "fail"


def test_a_full_tmpdir_is_looked_at_though_python_would_pass_it_over(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
    asked = []
    usage = shutil._ntuple_diskusage(GIB, GIB, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    assert check_disk().state == "fail"
    assert asked == [tmp_path]  # the innermost folder that is there


def test_a_small_rest_of_a_large_disk_is_enough_for_results(tmp_path):
    assert check_disk(tmp_path, name="output disk", free=40 * GIB, total=1000 * GIB).state == "ok"
    found = check_disk(tmp_path, name="output disk", free=0, total=0)
    assert (found.check, found.state) == ("output disk", "fail")


def test_little_shared_memory_is_found(tmp_path):
    found = check_shared_memory(GIB, size=64 * 2**20)  # what docker gives unasked
    assert (found.state, "--shm-size" in found.fix) == ("warn", True)
    assert check_shared_memory(GIB, size=2 * GIB).state == "ok"
    assert check_shared_memory(GIB, path=tmp_path / "none").state == "ok"


def test_few_open_files_are_found():
    assert [check_open_files(limit).state for limit in (256, 1024, 65536)] == ["fail", "warn", "ok"]
    assert check_open_files().check == "open files"


@pytest.mark.parametrize(
    ("skew", "within", "state"),
    [(0.5, 0.0, "ok"), (-10, 0.1, "warn"), (120, 0.1, "fail"), (-120, 0.1, "fail"), (10, 30, "ok"), (70, 30, "warn")],
)
def test_clocks_apart_are_found_only_as_far_as_that_is_known(skew, within, state):
    assert check_clock(skew, within).state == state


def test_a_probe_leaves_nothing_behind_not_even_folders(tmp_path):
    assert check_writable("output", str(tmp_path / "a" / "b")).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_probe_leaves_a_folder_that_others_have_used_meanwhile(tmp_path):
    with probe(Folder.at(tmp_path / "a"), "x"):
        (tmp_path / "a" / "theirs").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


def test_storage_that_cannot_be_written_is_found(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = check_writable("output", str(tmp_path / "file" / "runs"))
    assert (found.check, found.state, bool(found.fix)) == ("output", "fail", True)
    assert check_writable("output", "nowhere://bucket/x").state == "fail"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_found(tmp_path):
    tmp_path.chmod(0o500)
    assert check_writable("output", str(tmp_path)).state == "fail"


def test_no_space_left_is_a_finding(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = check_writable("output", str(tmp_path))
    assert (found.state, "No space left" in found.says) == ("fail", True)
    assert list(tmp_path.iterdir()) == []


def test_storage_that_gives_back_something_else_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(places.Folder, "read_text", lambda *_: "stale")
    assert "something else" in check_writable("output", str(tmp_path)).says


def test_a_folder_of_the_same_name_on_another_machine_is_found(tmp_path):
    with probe(Folder.at(tmp_path), "from there") as seen:
        assert check_writable("output", str(tmp_path), seen=seen).state == "ok"
        found = check_writable("output", str(tmp_path / "other"), seen=seen)
    assert (found.state, "mount the same" in found.fix) == ("fail", True)


def test_missing_shards_are_found(tmp_path):
    assert check_readable("shards", str(tmp_path)).state == "ok"
    assert check_readable("shards", str(tmp_path / "none")).state == "fail"


@pytest.fixture
def server():
    """A server's address and the list of codes it will answer with."""
    codes = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(codes[0] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}", codes
        listening.shutdown()


@pytest.mark.parametrize(("code", "state"), [(200, "ok"), (401, "ok"), (500, "fail"), (404, "fail")])
def test_a_tracker_is_asked_and_its_password_never_shown(server, code, state):
    address, codes = server
    codes.append(code)
    found = check_tracker(f"http://user:{SECRET}@{address}/")
    assert found.state == state
    assert SECRET not in found.says


def test_a_tracker_that_is_not_there_is_found(free_port):
    found = check_tracker(f"http://127.0.0.1:{free_port}")
    assert (found.state, "does not answer" in found.says) == ("fail", True)


def test_sqlite_is_for_one_machine(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert [check_tracker(uri).state, check_tracker(uri, shared=True).state] == ["ok", "warn"]
    assert [check_tracker(None).state, check_tracker(None, shared=True).state] == ["ok", "warn"]
    (tmp_path / "file").touch()
    assert check_tracker(f"sqlite:///{tmp_path}/file/mlflow.db").state == "fail"


@pytest.fixture
def token(tmp_path):
    file = tmp_path / "auth_token"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def test_a_private_token_is_fine_and_never_shown(token):
    found = check_token({}, token, cluster=True)
    assert (found.state, SECRET in found.says + found.fix) == ("ok", False)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_token_that_others_can_read_is_found_and_mended_when_asked(token, mode):
    token.chmod(mode)
    assert check_token({}, token).state == "fail"
    assert token.stat().st_mode & 0o777 == mode
    assert check_token({}, token, fix=True).state == "ok"
    assert token.stat().st_mode & 0o777 == 0o600


def test_no_token_matters_on_a_cluster(tmp_path, token):
    assert check_token({}, tmp_path / "none").state == "ok"
    found = check_token({}, tmp_path / "none", cluster=True)
    assert (found.state, "ray get-auth-token" in found.fix) == ("fail", True)
    token.write_text("\n")
    assert check_token({}, token, cluster=True).state == "fail"
    assert check_token({"RAY_AUTH_TOKEN": SECRET}, tmp_path / "none", cluster=True).state == "ok"


def test_authentication_switched_off_is_found(token):
    off = {"RAY_AUTH_MODE": "disabled"}
    assert [check_token(off, token).state, check_token(off, token, cluster=True).state] == ["warn", "fail"]


def test_a_check_that_breaks_is_a_finding_without_credentials():
    def broken():
        raise RuntimeError(f"cannot open s3://key:{SECRET}@bucket\nand more")

    found = examine([("first", broken), ("second", lambda: ok("second", "fine"))])
    assert [(each.check, each.state) for each in found] == [("first", "fail"), ("second", "ok")]
    assert "RuntimeError: cannot open" in found[0].says
    assert SECRET not in found[0].says


def test_every_check_has_its_line(tmp_path):
    found = look(Wanted(2**20, shards=str(tmp_path), output=str(tmp_path)))
    assert [each.check for each in found] == [
        "python", "packages", "gpus", "nccl", "codecs", "decoders", "disk", "shared memory", "open files", "shards",
        "output", "output disk", "tracker", "token",
    ]  # fmt: skip
    assert all(each.fix for each in found if each.state != "ok")
