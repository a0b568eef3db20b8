"""Files appear whole, with the modes that the user's umask gives."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from gare.common.errors import InputError
from gare.common.files import atomic_directory, atomic_file, os_errors_as_input, refuse_unwritable, staged_files


@pytest.fixture(params=[0o022, 0o027, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o777


def test_everything_in_a_folder_has_the_modes_of_the_umask_whoever_wrote_it(tmp_path, umask):
    with atomic_directory(tmp_path / "index", "index.json") as folder:
        (folder / "index.json").write_text("{}")
        (folder / "inner").mkdir(mode=0o700)
        save_file({"x": torch.zeros(1)}, folder / "inner" / "records.safetensors")
        (folder / "inner" / "records.safetensors").chmod(0o600)
    files = [tmp_path / "index" / "index.json", tmp_path / "index" / "inner" / "records.safetensors"]
    assert [mode(file) for file in files] == [0o666 & ~umask] * 2
    assert [mode(folder) for folder in (tmp_path / "index", tmp_path / "index" / "inner")] == [0o777 & ~umask] * 2


def test_a_file_has_the_mode_of_the_umask(tmp_path, umask):
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert mode(tmp_path / "file") == 0o666 & ~umask


def test_a_stop_between_two_files_of_a_result_leaves_no_record_of_it(tmp_path, monkeypatch):
    names = ["metrics.json", "ranks", "page"]
    for name in names:
        (tmp_path / name).write_text("old")
    replace, calls = Path.replace, []

    def stopped(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt), staged_files(tmp_path, names) as staged:
        [(staged / name).write_text("new") for name in names]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"ranks": "new", "page": "old"}


def test_a_source_that_is_missing_is_no_error_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), staged_files(tmp_path / "out" / "put", ["a"]):
        (tmp_path / "elsewhere" / "source").read_text()


def test_an_error_while_another_was_handled_is_told_as_it_is(tmp_path):
    def fails():
        try:
            (tmp_path / "missing").read_text()
        except OSError:
            raise RuntimeError("CUDA error: out of memory") from None

    with pytest.raises(RuntimeError, match="CUDA error"), os_errors_as_input(tmp_path / "a"):
        fails()


@pytest.mark.parametrize(("flag", "why"), [(0, "Permission denied"), (os.ST_RDONLY, "Read-only file system")])
def test_a_place_that_cannot_be_written_says_which_kind_it_is(tmp_path, monkeypatch, flag, why):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flag))
    with pytest.raises(InputError, match=f"Cannot write {tmp_path}/new/run: {why}"):
        refuse_unwritable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
