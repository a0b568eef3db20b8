"""Folders on any storage, and who holds them."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from gare.common.errors import InputError, RunError
from gare.common.locks import lease
from gare.common.occupied import lies_in
from gare.common.redact import redact
from gare.common.storage import Folder, read_file

QUICK = {"beat_s": 0.05, "dead_s": 0.3, "settle_s": 0.05}


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    folder = Folder.at(tmp_path / "a")
    with pytest.raises(ZeroDivisionError), folder.writing("b/c.txt") as path:
        path.write_text(str(1 // path.write_text("")))
    assert folder.names("b") == []
    with folder.writing("b/c.txt") as path:
        path.write_text("whole")
    assert (folder.names("b"), folder.sizes("b"), folder.read_text("b/c.txt")) == (["c.txt"], {"c.txt": 5}, "whole")
    assert folder.source("b/c.txt").read() == b"whole"
    folder.remove("b/c.txt")
    folder.remove("b/c.txt")
    assert (folder.exists("b/c.txt"), folder.size("b/c.txt"), folder.read_text("b/c.txt")) == (False, None, None)


def test_a_relative_path_and_a_file_address_are_folders_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder.at("x").local == tmp_path / "x"
    assert Folder.at(f"file://{tmp_path}/x%20y").local == tmp_path / "x y"


def test_a_gzipped_file_is_read_copied_and_digested_as_it_is(tmp_path):
    content = gzip.compress(b"a" * 1000)
    (tmp_path / "x.gz").write_bytes(content)
    folder, copied = Folder.at(tmp_path), tmp_path / "copy"
    folder.fetch("x.gz", copied)
    assert folder.read_bytes("x.gz") == copied.read_bytes() == content
    assert folder.sha256("x.gz") == hashlib.sha256(content).hexdigest()


def test_the_root_is_a_folder():
    root = Folder.at("/")
    assert root.exists()
    assert root.exists("etc")
    assert root.below("etc").local == Path("/etc")
    assert root.names("etc") == Folder.at("/etc").names() != []
    assert root.named("x") == "/x"


def test_names_that_are_not_utf8_are_one_sentence(tmp_path):
    odd = tmp_path / os.fsdecode(b"a\xff")
    odd.mkdir()
    (odd / "x").touch()
    for call in (lambda: Folder.at(odd), lambda: read_file(odd / "x"), lambda: lies_in(odd)):
        with pytest.raises(InputError, match="its name is not UTF-8; rename it"):
            call()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / odd.name).touch()
    folder = Folder.at(tmp_path / "b")
    for call in (folder.names, folder.tree, lambda: folder.read_bytes(odd.name)):
        with pytest.raises(InputError, match=r"Cannot read \S+: a name there is not UTF-8"):
            call()


def test_what_cannot_be_removed_is_one_sentence(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=r"Cannot remove \S+/x: "):
        Folder.at(tmp_path).remove("x")


@pytest.mark.parametrize("address", ["http://host/x", "ftp://host/x", "x://y"])
def test_other_addresses_are_refused(address):
    with pytest.raises(InputError, match="cannot be opened: addresses start with abfs"):
        Folder.at(address)


def test_messages_and_repeats_show_no_credentials():
    assert redact("s3://key:secret@bucket/x?secret_key=y&region=z") == "s3://***@bucket/x?secret_key=***&region=z"
    assert str(Folder.at("s3://key:secret@bucket/x?region=z")) == "s3://***@bucket/x"


def test_a_second_process_is_refused_while_the_first_gives_signs_of_life(tmp_path):
    folder = Folder.at(tmp_path)
    with lease(folder, **QUICK), pytest.raises(RunError, match="Another process is at work"), lease(folder, **QUICK):
        pass
    assert not folder.exists(".lock")
    with lease(folder, **QUICK):
        pass


def test_a_dead_process_does_not_block_for_ever(tmp_path):
    folder = Folder.at(tmp_path)
    folder.write_json(".lock", {"owner": "dead", "beat": 3})
    started = time.monotonic()
    with lease(folder, **QUICK):
        assert time.monotonic() - started >= QUICK["dead_s"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json"])
def test_a_damaged_lock_is_a_dead_one(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with lease(Folder.at(tmp_path), **QUICK):
        pass


def test_who_lost_its_lease_is_told(tmp_path):
    folder = Folder.at(tmp_path)
    held = lease(folder, **QUICK)
    held.__enter__()
    folder.write_json(".lock", {"owner": "other", "beat": 0})
    time.sleep(3 * QUICK["beat_s"])
    with pytest.raises(RunError, match="Another process"):
        held.__exit__(None, None, None)
    assert folder.exists(".lock")  # the other's


def test_of_two_that_start_at_once_at_most_one_begins(tmp_path):
    folder = Folder.at(tmp_path)
    inside, refused = [], []
    start = threading.Barrier(2)

    def compete():
        start.wait()
        try:
            with lease(folder, **QUICK):
                inside.append(1)
                time.sleep(0.3)
        except RunError:
            refused.append(1)

    threads = [threading.Thread(target=compete) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 1)
