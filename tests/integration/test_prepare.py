"""The Ray Data job, end to end, on a small cluster."""

from __future__ import annotations

import json
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.errors import RunError
from gare.common.files import file_digest
from gare.config.prepare import PrepareConfig
from gare.data.shards import ShardSet
from gare.schema import MANIFEST
from pipelines.manifest.rows import write_manifest
from pipelines.prepare import job as shards
from pipelines.prepare.process_unit import process_unit
from tests.processes import decoders_below
from tests.videos import make_video

pytestmark = pytest.mark.ray
RECIPE = PrepareConfig(max_frames=4, short_side=32, crop=32, unit_videos=3)


@pytest.fixture
def manifest(tmp_path):
    made = []
    for number in range(8):
        path = tmp_path / f"{number}.mp4"
        if number == 4:
            path.write_text("no video")
        else:
            make_video(path, frames=30 + number, gop=10)
        split = "test" if number % 3 == 2 else "train"
        made.append({"video_id": f"v{number}", "uri": str(path), "split": split, "captions": [f"number {number}"]})
    write_manifest(pa.Table.from_pylist(made, schema=MANIFEST), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def contents(folder):
    return {f.name: file_digest(f) for f in [folder / "dataset.json", *sorted((folder / "shards").iterdir())]}


def test_prepare_is_the_same_for_any_workers_goes_on_after_a_loss_and_records_failures(tmp_path, manifest, ray_cluster):
    seen = []
    report = shards.prepare(manifest, tmp_path / "two", RECIPE, workers=2, on_progress=seen.append)
    assert report.totals["ok"] == 7
    assert report.totals["failed"] == {"unreadable": 1}
    assert (seen[0].done, seen[-1].done, seen[-1].total, seen[-1].failed) == (0, 8, 8, 1)
    shards.prepare(manifest, tmp_path / "one", RECIPE, workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    shards.prepare(manifest, tmp_path / "here", RECIPE, workers=2, local=True)
    assert contents(tmp_path / "here") == contents(tmp_path / "two")
    for part in sorted((tmp_path / "two/ledger").iterdir()):
        there, here = (pq.read_table(path) for path in (part, tmp_path / "here/ledger" / part.name))
        assert there.schema.equals(here.schema, check_metadata=True)
        assert there.drop_columns("decode_s").equals(here.drop_columns("decode_s"))

    # As a job killed between a unit's shards and its ledger part leaves it.
    before, kept = contents(tmp_path / "two"), (tmp_path / "two/shards/unit-000000-00.arrow").stat().st_mtime_ns
    (tmp_path / "two/dataset.json").unlink()
    (tmp_path / "two/ledger/unit-000001.parquet").unlink()
    again = shards.prepare(manifest, tmp_path / "two", RECIPE)
    assert (again.videos, again.units_skipped) == (3, 2)
    assert contents(tmp_path / "two") == before
    assert (tmp_path / "two/shards/unit-000000-00.arrow").stat().st_mtime_ns == kept

    found = ShardSet(tmp_path / "two")
    assert [video.video_id for video in found.split("train").videos] == ["v0", "v1", "v3", "v6", "v7"]
    assert json.loads((tmp_path / "two/dataset.json").read_text())["splits"]["test"] == {"videos": 2, "captions": 2}


def test_a_corpus_of_bad_videos_ends_with_a_sentence_and_a_ledger(tmp_path, ray_cluster):
    made = [{"video_id": "a", "uri": str(tmp_path / "none.mp4"), "split": "train", "captions": ["x"]}]
    write_manifest(pa.Table.from_pylist(made, schema=MANIFEST), tmp_path / "m.parquet")
    with pytest.raises(RunError, match="ledger says why"):
        shards.prepare(tmp_path / "m.parquet", tmp_path / "out", RECIPE)
    assert (tmp_path / "out/ledger/unit-000000.parquet").is_file()


def test_a_slow_disk_holds_the_job_back_and_nothing_piles_up(tmp_path, manifest, ray_cluster):
    """As many units are begun as there are workers, however many wait."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def slow(output, unit, again=None):
        (marks / f"begun-{unit}").touch()
        time.sleep(0.3)
        (marks / f"done-{unit}").touch()
        return process_unit(output, unit, again=again)

    at_once = []

    def look(_):
        at_once.append(len(list(marks.glob("begun-*"))) - len(list(marks.glob("done-*"))))

    recipe = RECIPE.model_copy(update={"unit_videos": 1})
    with shards.open_job(manifest, tmp_path / "out", recipe) as job:
        report = shards.run_job(job, workers=2, on_progress=look, work=slow)
    assert report.totals["rows"] == 8
    assert max(at_once) <= 2


def test_decoders_killed_in_the_middle_cost_nothing(tmp_path, manifest, ray_cluster):
    shards.prepare(manifest, tmp_path / "quiet", RECIPE)
    killed = []

    def kill_once(state):
        if not killed:
            killed.extend(decoders_below(os.getpid()))
            for decoder in killed:
                os.kill(decoder, signal.SIGKILL)

    shards.prepare(manifest, tmp_path / "disturbed", RECIPE, workers=1, on_progress=kill_once)
    assert killed
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "quiet")
