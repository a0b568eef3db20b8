"""What the documents show works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gare.cli import COMMANDS
from gare.config.tree import describe
from gare.schema import LEDGER, MANIFEST, SHARD
from tests.toy import make_shards

ROOT = Path(__file__).parents[2]
FILES = (".json", ".md", ".py", ".safetensors", ".yaml")
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def test_a_shard_is_read_by_the_lines_that_say_so(tmp_path, monkeypatch):
    make_shards(tmp_path / "shards", {"train": 4})
    monkeypatch.chdir(tmp_path)
    found = {}
    code = blocks("docs/data.md", "python")[0]
    assert len([line for line in code.splitlines() if line]) == 5
    exec(code, found)  # noqa: S102 - our own document
    assert found["row"]["video_id"] == "train0"
    assert {frame.shape for frame in found["frames"]} == {(32, 32, 3)}
    assert len(found["frames"]) == len(found["row"]["timestamps_s"])


@pytest.mark.parametrize("schema", [MANIFEST, SHARD, LEDGER])
def test_every_column_is_described(schema):
    text = (ROOT / "docs/data.md").read_text()
    assert [name for name in schema.names if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_settings_and_links_exist(path):
    text = path.read_text()
    commands = {command.name for command in COMMANDS}
    assert set(re.findall(r"`gare ([a-z][a-z-]+)", text)) <= commands
    keys = {doc.key for doc in describe()}
    sections = {key.partition(".")[0] for key in keys}
    named = re.findall(rf"`((?:{'|'.join(sections)})(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", text)
    assert {name for name in named if not name.endswith(FILES)} - keys == set()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
