"""Folders that were prepared before ``prepare.square_pixels`` was there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gare.common.errors import ConfigError, InputError
from gare.common.files import digest_of, file_digest, write_json
from gare.common.storage import Folder
from gare.config import Config, PrepareConfig
from gare.config.tree import build, build_saved
from gare.data.shards import ShardSet
from gare.runs.inputs import check_recipe
from gare.schema import RECIPE_KEY, SCHEMA_VERSION
from pipelines.dataset.inspection.contents import read_contents
from pipelines.dataset.inspection.summary import summarise
from pipelines.dataset.inspection.verify import verify
from pipelines.dataset.layout import read_recipe, recipe_digest
from pipelines.dataset.ledger import SHARDS_KEY, dataset_manifest
from pipelines.dataset.opening import existing_output, open_output
from pipelines.dataset.tools.check import stat
from pipelines.dataset.tools.merge import merge
from pipelines.dataset.tools.split import in_parts, split
from tests.prepared import RECIPE, make_sources, prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Videos, a folder prepared of them now, and one as if it had been prepared then."""
    place = tmp_path_factory.mktemp("older")
    prepare(place / "now", make_sources(place / "videos"))
    make_older(shutil.copytree(place / "now", place / "older"))
    return place


def make_older(folder: Path) -> None:
    """Take the setting out of the recipe, and change a frame a little; all digests fit, as they did then."""
    values = json.loads((folder / "recipe.json").read_text())
    del values["recipe"]["square_pixels"]
    values["recipe_digest"] = digest_of({"schema_version": SCHEMA_VERSION, "prepare": values["recipe"]})
    write_json(folder / "recipe.json", values)
    stamp = {RECIPE_KEY: values["recipe_digest"].encode()}
    for path in sorted((folder / "ledger").iterdir()):
        ledger = pq.read_table(path)
        entries = json.loads(ledger.schema.metadata[SHARDS_KEY])
        for entry in entries:
            shard = folder / "shards" / entry["file"]
            table = pa.ipc.open_file(pa.BufferReader(shard.read_bytes())).read_all()
            rows = table.to_pylist()
            if rows[0]["video_id"] == "a":
                rows[0]["frames"][0] = bytes(max(0, value - 1) for value in rows[0]["frames"][0])
            schema = table.schema.with_metadata(table.schema.metadata | stamp)
            with pa.ipc.new_file(str(shard), schema) as writer:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            entry |= {"bytes": shard.stat().st_size, "sha256": file_digest(shard)}
        metadata = ledger.schema.metadata | stamp | {SHARDS_KEY: json.dumps(entries).encode()}
        pq.write_table(ledger.replace_schema_metadata(metadata), path)
    write_json(folder / "dataset.json", dataset_manifest(existing_output(folder)))


THEN = {
    "max_frames": 12,
    "policy": "fps_linspace",
    "candidate_fps": 1.0,
    "timestamps_s": None,
    "short_side": 224,
    "crop": 224,
    "resize": "pil",
    "storage": "raw",
    "jpeg_quality": 90,
    "unit_videos": 64,
    "shard_bytes": 268435456,
    "limits": {
        "max_bytes": 4294967296,
        "max_pixels": 33177600,
        "max_seconds": 21600.0,
        "max_packets": 2000000,
        "cpu_seconds": 60.0,
        "wait_seconds": 600.0,
        "memory_bytes": 1073741824,
        "max_aspect": 10.0,
    },
}


def test_the_names_of_an_older_recipe_and_experiment_are_what_they_were_then():
    recipe, lacking = read_recipe(THEN)
    assert (recipe.square_pixels, lacking) == (False, {"square_pixels"})
    assert recipe_digest(recipe, lacking) == "0b68d7940101fc96"
    assert len({recipe_digest(recipe, lacking), recipe_digest(recipe), recipe_digest(PrepareConfig())}) == 3
    assert Config().digest() == "6b1deba9686233f2"
    assert Config(prepare=recipe).digest() == Config().digest()  # the dataset's digest tells them apart


def test_an_older_dataset_trains_with_settings_that_say_how_it_was_made(made):
    shards = ShardSet(made / "older")
    assert len(shards.split("train").frames(0, 3)) == 2
    with pytest.raises(ConfigError, match=r"\(prepare.square_pixels=true\).*--set prepare.square_pixels=false"):
        check_recipe(Config(prepare=RECIPE, data={"frames": 3}), shards)
    true = RECIPE.model_copy(update={"square_pixels": False})
    check_recipe(Config(prepare=true, data={"frames": 3}), shards)


def test_what_was_saved_before_the_setting_was_there_was_made_without_it(tmp_path):
    values = Config().model_dump(mode="json")
    del values["prepare"]["square_pixels"]
    assert build_saved(values).prepare.square_pixels is False
    assert build(values).prepare.square_pixels is True


def test_an_older_folder_is_counted_and_verified(made):
    contents = read_contents(made / "older")
    assert summarise(contents)["finished"]
    assert summarise(contents)["recipe"]["square_pixels"] is False
    verdict = verify(contents, sample=None)
    assert verdict.problems == []
    assert len(verdict.unverifiable) == 1
    assert "'a'" in verdict.unverifiable[0]
    assert "older version of this software, which made other frames (1 of 2 frames, by" in verdict.unverifiable[0]
    assert verify(read_contents(made / "now"), sample=None).problems == []


def test_damage_of_an_older_folder_is_still_found(made, tmp_path):
    folder = shutil.copytree(made / "older", tmp_path / "older")
    values = json.loads((folder / "recipe.json").read_text())
    values["recipe"]["max_frames"] = 2
    write_json(folder / "recipe.json", values)
    assert any("recipe.json has another digest" in text for text in verify(read_contents(folder), sample=0).problems)


@pytest.mark.parametrize("square", [True, False])
def test_nothing_is_added_to_an_older_folder(made, square):
    with pytest.raises(InputError, match=r"older version of this software.*trains as it is.*give another --out"):
        open_output(made / "older", [], RECIPE.model_copy(update={"square_pixels": square}))


def test_older_datasets_are_cut_and_merged_among_themselves_only(made, tmp_path):
    place = Folder.at(made / "older")
    parts = split(place, Folder.at(tmp_path / "cut"), in_parts(2))
    whole = merge([one.place for one in parts.values()], Folder.at(tmp_path / "whole"))
    assert "square_pixels" not in whole.values["recipe"]
    assert stat(Folder.at(tmp_path / "whole"), verify=True)["problems"] == []
    as_stored = prepare(tmp_path / "as_stored", made / "videos", RECIPE.model_copy(update={"square_pixels": False}))
    for other, sentence in (
        (made / "now", "prepare.square_pixels is False and True; one is of an older version"),
        (as_stored, "different recipes: one is of an older version"),
    ):
        with pytest.raises(InputError, match=sentence):
            merge([place, Folder.at(other)], Folder.at(tmp_path / "none"))
