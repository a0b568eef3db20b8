"""Records and foreign values: what is damaged is named in a sentence, and a sentence shows no more than it should."""

from __future__ import annotations

import json
import zipfile

import pytest

from gare.common.errors import InputError
from gare.common.records import load_json
from gare.common.redact import LONGEST_MESSAGE, MAX_SHOWN, names, sentence, shown
from gare.model import load_model
from gare.model.archive import check_entries
from gare.runs.state import RunState, parse_state
from pipelines.manifest.load import load_manifest
from tests.toy import make_checkpoint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "1e999 is not a JSON number"),
        ('{"a": 1, "a": 2}', "twice"),
        (r'{"a": "\ud800"}', "not valid Unicode"),
        (b"\xff", "decode"),
        ("9" * 5000, "digits"),
    ],
)
def test_json_that_is_none_is_a_value_error_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        load_json(text)


def test_json_is_read_as_python_reads_it():
    assert load_json(r'{"a": [1, 2.5, null, "\ud83d\ude00"]}') == {"a": [1, 2.5, None, "\U0001f600"]}
    assert load_json("[1e999]", nan=True) == [float("inf")]


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -5}, {"epoch": 25.7}, {"epoch": True}, {"step": "3"}, {"step": 10**30}, {"extended": 5},
        {"extended": [-9]}, {"extended": [0]}, {"last": "../x"}, {"best": "epoch-0001/../../x"},
        {"kept": ["epoch-0001"]},
        {"kept": {"x": 1.0}}, {"best_metrics": {"a": "b"}}, {"seconds": -1.0}, {"finished": 1}, {"more": 1},
        {"config_digest": None},
    ],
)  # fmt: skip
def test_a_run_record_with_a_value_that_cannot_be_is_damaged(change):
    values = {"config_digest": "a", "dataset_digest": "b"}
    assert parse_state(json.dumps(values), "run.json") == RunState("a", "b")
    with pytest.raises(InputError, match=rf"run.json is damaged \(.*'{next(iter(change))}.*choose another"):
        parse_state(json.dumps(values | change), "run.json")


def test_one_text_is_no_list_of_captions(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"video_id": "a", "uri": "a.mp4", "split": "train", "captions": "text"}))
    with pytest.raises(InputError, match="the captions 'text', which are not a list of texts"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("file", "section", "key", "value"),
    [
        ("clip/config.json", "text_config", "num_hidden_layers", 10**6),
        ("clip/config.json", "text_config", "vocab_size", 3 * 10**7),
        ("clip/config.json", "text_config", "max_position_embeddings", 10**10),
        ("clip/config.json", "vision_config", "image_size", 10**6),
        ("config.yaml", "model", "max_frames", 10**10),
        ("config.yaml", "model", "temporal_layers", 10**6),
        ("config.yaml", "data", "frames", 10**10),
    ],
)
def test_a_checkpoint_of_absurd_sizes_is_refused_before_anything_is_made(
    tmp_path, toy_clip, toy_shards, file, section, key, value
):
    folder = tmp_path / "checkpoint"
    make_checkpoint(folder, toy_clip, toy_shards)
    if file.endswith(".json"):
        values = json.loads((folder / file).read_text())
        values[section][key] = value
        (folder / file).write_text(json.dumps(values))
    else:
        lines = (folder / file).read_text().splitlines()
        at = next(n for n, line in enumerate(lines) if line.startswith(f"  {key}:") and f"{section}:" in lines[:n])
        lines[at] = f"  {key}: {value}"
        (folder / file).write_text("\n".join(lines))
    with pytest.raises(InputError, match=key):
        load_model(folder)


def test_a_trainer_state_that_unfolds_is_refused(tmp_path):
    path = tmp_path / "trainer.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", b"\0" * 10**6)
    with pytest.raises(ValueError, match="compressed"):
        check_entries(path)


def test_foreign_values_are_short_escaped_and_without_secrets():
    assert shown("a\x1b[31m\u202e") == r"'a\x1b[31m\u202e'"
    assert len(shown("x" * 10**6)) <= MAX_SHOWN + 5
    assert len(shown({"a": [["x" * 1000] * 1000] * 1000})) <= MAX_SHOWN + 5
    assert "secret" not in shown({"a": ["s3://me:secret@bucket/x?token=abc"]})
    assert len(shown(10**4000)) <= MAX_SHOWN + 5
    assert names(["a", " b", "c\n", ""]) == r"a, ' b', 'c\n', ''"
    assert len(names([f"column {n}" for n in range(20_000)])) < 300
    assert len(str(InputError("x" * 10**6 + " s3://a:secret@b"))) <= LONGEST_MESSAGE
    assert sentence("see s3://a:secret@b\x07") == r"see s3://***@b\x07"
