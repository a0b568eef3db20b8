"""Files that others made: read as tensors, or refused in one sentence; never run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gare.common.errors import InputError
from gare.model.archive import read_archive
from tests import openai_clip

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class Attributes(nn.Module):
    """A scripted module with attributes of every plain kind beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        self.small = nn.Parameter(torch.randn(2, 3).half())
        self.scale = 2.5
        self.sizes = [1, 2]
        self.names = ["a", "b"]
        self.device = torch.device("cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale + len(self.sizes) + len(self.names) + self.small.float().sum()


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_archive_is_read_without_loading_it(tmp_path, how):
    torch.manual_seed(0)
    module = Attributes().eval()
    made = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.randn(2, 4))
    torch.jit.save(made, tmp_path / "model.pt")
    read = read_archive(tmp_path / "model.pt")
    assert read.kind == "TorchScript archive"
    same(read.tensors, made.state_dict())


def test_a_traced_clip_is_read_whole(tmp_path):
    clip = openai_clip.Clip().eval()
    torch.jit.save(torch.jit.trace(clip, openai_clip.inputs()), tmp_path / "clip.pt")
    same(read_archive(tmp_path / "clip.pt").tensors, clip.state_dict())


@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}], ids=["2", "4", "old"]
)
def test_a_state_dict_is_read(tmp_path, options):
    base = torch.randn(6, 4)
    state = {"view": base[1:, ::2], "turned": base.T, "scalar": torch.tensor(3), "none": torch.empty(0, 3)}
    state |= {"bf16": base.bfloat16(), "flag": torch.tensor([True, False]), "p": nn.Parameter(base)}
    torch.save(state, tmp_path / "state.bin", **options)
    read = read_archive(tmp_path / "state.bin")
    assert read.kind == "state dict"
    same(read.tensors, state)
    assert not any(t.requires_grad for t in read.tensors.values())


def repacked(source: Path, target: Path, changes: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            short = info.filename.split("/", 1)[1]
            new.writestr(info.filename, changes.get(short, old.read(info)))
    return target


@pytest.fixture
def saved(tmp_path):
    torch.save({"w": torch.arange(6.0).view(2, 3)}, tmp_path / "state.bin")
    return tmp_path / "state.bin"


def program_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


class Evil:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_never_runs(saved, tmp_path, protocol):
    trace = tmp_path / "ran"
    for evil in (Evil(os.system, f"touch {trace}"), Evil(eval, f"open({str(trace)!r}, 'w')"), Evil(open, trace, "w")):
        bad = repacked(saved, tmp_path / "bad.bin", {"data.pkl": pickle.dumps({"w": evil}, protocol=protocol)})
        with pytest.raises(InputError, match="which is not data, and nothing was run"):
            read_archive(bad)
        (tmp_path / "bare.bin").write_bytes(pickle.dumps({"w": evil}, protocol=protocol))
        with pytest.raises(InputError, match="neither a state dict nor a TorchScript archive"):
            read_archive(tmp_path / "bare.bin")
    assert not trace.exists()


def test_a_scripted_archive_with_code_in_its_pickle_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(Attributes()), tmp_path / "model.pt")
    evil = pickle.dumps(Evil(os.system, f"touch {tmp_path / 'ran'}"), protocol=2)
    with pytest.raises(InputError, match=r"posix.system, which is not data"):
        read_archive(repacked(tmp_path / "model.pt", tmp_path / "bad.pt", {"data.pkl": evil}))
    assert not (tmp_path / "ran").exists()


def test_declared_sizes_must_be_there(saved, tmp_path):
    program = program_of(saved)
    for before, after, message in (
        (b"K\x06", b"J" + struct.pack("<i", 2**31 - 1), "declares 8589934588 bytes in state/data/0, which has 24"),
        (b"K\x06", b"K\x05", "declares 20 bytes"),
        (b"K\x02K\x03", b"K\x02K\x09", "reaches beyond its 6 stored numbers"),
        (b"K\x03K\x01", b"K\x09K\x01", "reaches beyond"),
        (b"K\x02K\x03", b"K\x02J\xff\xff\xff\xff", "has the size"),
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007", "which has none"),
    ):
        assert before in program
        bad = repacked(saved, tmp_path / "bad.bin", {"data.pkl": program.replace(before, after, 1)})
        with pytest.raises(InputError, match=message):
            read_archive(bad)


def test_zip_bombs_are_refused(saved, tmp_path):
    bomb = repacked(saved, tmp_path / "bomb.bin", {"data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 2**16
    with pytest.raises(InputError, match="is compressed, which torch never does"):
        read_archive(bomb)
    # An entry that says it is longer than the whole file.
    content = bytearray(saved.read_bytes())
    at = content.rfind(b"PK\x01\x02")
    while content[at + 46 :].split(b"PK")[0].find(b"data/0") < 0:
        at = content.rfind(b"PK\x01\x02", 0, at)
    content[at + 20 : at + 28] = struct.pack("<II", 2**30, 2**30)
    (tmp_path / "long.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"its entries declare|is damaged"):
        read_archive(tmp_path / "long.bin")


def test_a_small_file_that_unfolds_is_refused(tmp_path):
    base = torch.zeros(100_000)
    torch.save({f"copy{n}": base if n % 2 else base.view(-1) for n in range(8)}, tmp_path / "many.bin")
    with pytest.raises(InputError, match="unfold to more than 4 times the file"):
        read_archive(tmp_path / "many.bin")


def test_modules_nested_without_end_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(Attributes()), tmp_path / "model.pt")
    loop = b"\x80\x02c__torch__\nA\nq\x00)\x81q\x01}X\x01\x00\x00\x00ah\x01sb."
    with pytest.raises(InputError, match="nested without end"):
        read_archive(repacked(tmp_path / "model.pt", tmp_path / "loop.pt", {"data.pkl": loop}))
    doubling = b"\x80\x02c__torch__\nA\nq\x00)\x81q\x01"
    for n in range(60):
        doubling += b"h\x00)\x81q" + bytes([n + 2]) + b"}(X\x01\x00\x00\x00ah" + bytes([n + 1])
        doubling += b"X\x01\x00\x00\x00bh" + bytes([n + 1]) + b"ub"
    with pytest.raises(InputError, match="nested without end"):
        read_archive(repacked(tmp_path / "model.pt", tmp_path / "two.pt", {"data.pkl": doubling + b"."}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        ({"epoch": 3, "w": torch.ones(2)}, "'epoch' is a int, not a tensor"),
        ({3: torch.ones(2)}, "not a plain state dict"),
        ({}, "not a state dict"),
        ({"w": {1, 2}}, "which is not data|not a tensor"),
    ],
)
def test_other_values_are_one_clear_sentence(tmp_path, value, message):
    torch.save(value, tmp_path / "other.bin")
    with pytest.raises(InputError, match=message):
        read_archive(tmp_path / "other.bin")


def test_files_of_other_kinds_are_one_clear_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme", "hello")
    (tmp_path / "short").write_bytes(b"PK\x03\x04")
    (tmp_path / "text").write_text("hello world, this is no checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("a.zip", "short", "text", "empty", "nothing", "."):
        with pytest.raises(InputError):
            read_archive(tmp_path / name)


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory, data):
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0), "v": torch.ones(2, 2)}, buffer)
    folder = tmp_path_factory.mktemp("damage")
    (folder / "state.bin").write_bytes(buffer.getvalue())
    program = bytearray(program_of(folder / "state.bin"))
    for _ in range(data.draw(st.integers(1, 3))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    bad = repacked(folder / "state.bin", folder / "bad.bin", {"data.pkl": bytes(program)})
    try:
        read = read_archive(bad)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in read.tensors.values())
