"""Files appear whole, with the modes that the user's umask gives."""

import os

import pytest
import torch
from safetensors.torch import save_file

from gare.common.files import atomic_directory, atomic_file


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
