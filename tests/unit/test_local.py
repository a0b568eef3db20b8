"""The data job without Ray: a pool of decoders, the same files, and nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest

from gare.api.prepare import needs_no_ray
from gare.common.errors import InputError, RunError
from gare.common.files import file_digest
from gare.config.prepare import PrepareConfig
from gare.config.tree import load_config
from gare.schema import MANIFEST
from pipelines.dataset.ledger import Ledger
from pipelines.dataset.opening import open_output
from pipelines.dataset.shard_rows import ShardWriter
from pipelines.decode.isolated.decoder import Decoder
from pipelines.manifest.rows import write_manifest
from pipelines.prepare import job as shards
from pipelines.prepare import local_units
from pipelines.prepare.attempts import attempts
from tests.processes import decoders_below, ends, gare, run, start, wait_until
from tests.videos import make_video

RECIPE = PrepareConfig(short_side=32, crop=32, unit_videos=4)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for number in range(5):
        path = folder / f"{number}.mp4"
        make_video(path, frames=300, gop=10, size=(320, 240)) if number != 2 else path.write_text("no video")
        for start_s in (None, 1.0):
            made.append({"video_id": f"{number}-{start_s}", "uri": str(path), "split": "train", "captions": ["x"]})
            made[-1] |= {"start_s": start_s, "end_s": None}
    return made[::3] + made[1::3] + made[2::3]


def contents(folder):
    return {f.name: file_digest(f) for f in [folder / "dataset.json", *sorted((folder / "shards").iterdir())]}


def test_a_pool_gives_what_one_decoder_gives_in_the_same_order(rows, tmp_path):
    output = open_output(tmp_path / "out", pa.Table.from_pylist(rows, MANIFEST), RECIPE)
    given = dict(enumerate(output.rows(0)))
    with Decoder() as one, Decoder() as other:
        plain = list(attempts(given, RECIPE, one))
        pooled = list(local_units.in_parallel(given, RECIPE, [one, other]))
    for (entry, stored), (plain_entry, plain_stored) in zip(pooled, plain, strict=True):
        assert entry | {"decode_s": 0} == plain_entry | {"decode_s": 0}
        assert stored == plain_stored


def test_a_decoder_that_cannot_be_started_ends_the_job_with_a_sentence(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(local_units, "Decoder", lambda: Decoder("tests.no_such_module"))
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "m.parquet")
    before = threading.active_count(), decoders_below(os.getpid())
    with pytest.raises(RunError, match="could not be started"):
        shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE, workers=2, local=True)
    assert (threading.active_count(), decoders_below(os.getpid())) == before


def test_a_disk_that_is_full_ends_the_decoders_at_once_and_the_same_command_goes_on(rows, tmp_path, monkeypatch):
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "m.parquet")
    before = threading.active_count(), decoders_below(os.getpid())
    decoded, decode = [], Decoder.decode_clips

    def counted(self, uri, **more):
        decoded.append(uri)
        return decode(self, uri, **more)

    def full(self, row):
        raise InputError("Cannot write the shard: No space left on device.")

    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "add", full)
        patched.setattr(Decoder, "decode_clips", counted)
        with pytest.raises(InputError, match="No space left"):
            shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE, workers=2, local=True)
        assert (threading.active_count(), decoders_below(os.getpid())) == before
        assert len(decoded) <= 4
    report = shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE, workers=2, local=True)
    assert report.totals["ok"] == 8


def test_interrupted_it_leaves_no_process_and_the_same_command_goes_on(rows, tmp_path):
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "m.parquet")
    shards.prepare(tmp_path / "m.parquet", tmp_path / "whole", RECIPE, workers=1, local=True)
    sizes = [f"prepare.{name}={getattr(RECIPE, name)}" for name in ("short_side", "crop", "unit_videos")]
    settings = [word for size in sizes for word in ("--set", size)]
    command = gare("prepare", tmp_path / "m.parquet", "--out", tmp_path / "out", "--local", *settings)
    process = start(command)
    decoding = []
    assert wait_until(process, lambda: decoding.extend(decoders_below(process.pid)) or bool(decoding))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert all(ends(child) for child in decoding)
    assert not (tmp_path / "out/dataset.json").exists()
    assert [path for path in (tmp_path / "out/ledger").iterdir() if path.name.startswith(".")] == []
    run(command)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_it_imports_is_light(rows, tmp_path):
    write_manifest(pa.Table.from_pylist(rows[:1], MANIFEST), tmp_path / "m.parquet")
    code = (
        "import sys\n"
        "from pipelines.prepare import job\n"
        "job.prepare(sys.argv[1], sys.argv[2], job.PrepareConfig(crop=32, short_side=32), local=True)\n"
        "print([m for m in ('ray', 'torch', 'mlflow', 'transformers') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code, str(tmp_path / "m.parquet"), str(tmp_path / "out")])
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("videos", "cluster", "settings", "local"),
    [
        (1, None, {}, True),
        (200, None, {}, True),
        (201, None, {}, False),
        (1, "auto", {}, False),
        (1, None, {"runtime.decode_on": {}}, False),
    ],
)
def test_a_small_job_starts_no_ray_where_there_is_no_cluster(monkeypatch, videos, cluster, settings, local):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert needs_no_ray(SimpleNamespace(rows_todo=videos), load_config(None, settings)) is local
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert not needs_no_ray(SimpleNamespace(rows_todo=videos), load_config(None, settings))


def test_units_that_are_done_are_not_done_again(rows, tmp_path):
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "m.parquet")
    shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE, workers=2, local=True)
    before = contents(tmp_path / "out")
    (tmp_path / "out/ledger/unit-000001.parquet").unlink()
    (tmp_path / "out/dataset.json").unlink()
    report = shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE, workers=2, local=True)
    assert (report.videos, report.units_skipped) == (4, 2)
    assert contents(tmp_path / "out") == before
    with shards.open_job(tmp_path / "m.parquet", tmp_path / "out", RECIPE) as job:
        assert len(list(Ledger(job.output).each())) == 3
