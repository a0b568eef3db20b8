"""What the documents show works as shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pyarrow as pa
import pytest

from gare.cli import COMMANDS, cli
from gare.config.tree import describe, load_config, to_yaml
from gare.schema import LEDGER, MANIFEST, SHARD
from pipelines.decode import KINDS
from pipelines.manifest.rows import write_manifest
from tests.toy import make_shards, toy_config
from tests.videos import make_video

ROOT = Path(__file__).parents[2]
HISTORY = ("CHANGELOG.md", "decisions.md")  # they may name files of their day
FILES = (".json", ".md", ".py", ".safetensors", ".yaml")
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "deploy" / "README.md"])


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


def test_every_kind_of_failure_is_described():
    text = (ROOT / "docs/data.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_settings_and_links_exist(path):
    text = path.read_text()
    commands = {command.name for command in COMMANDS}
    assert set(re.findall(r"`gare ([a-z][a-z-]+)", text)) <= commands
    keys = {doc.key for doc in describe()}
    sections = {key.partition(".")[0] for key in keys}
    named = re.findall(rf"`((?:{'|'.join(sections)})(?:\.[a-z_0-9]+)+)(?:=[^`]*)?`", text)
    assert {name for name in named if not name.endswith(FILES)} - keys == set()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target
    if path.name not in HISTORY:
        files = set(re.findall(r"`((?:gare|pipelines|tune|tests|benchmarks|deploy|configs|docs)/[\w./]*)`", text))
        assert [name for name in sorted(files) if not (ROOT / name).exists()] == []


def test_the_library_example_of_the_readme_runs(tmp_path, monkeypatch):
    from gare.config import Config, ModelConfig
    from gare.model import GareModel, save_model
    from gare.model.scratch import ScratchClip, make_clip
    from gare.runs.state import RunState, write_state

    make_clip(["a small red circle"], tmp_path / "clip", ScratchClip(64, 32, 64, 1, 1, 32, 600))
    folder = tmp_path / "runs/mine/checkpoints/epoch-0005"
    folder.mkdir(parents=True)
    settings = ModelConfig(temporal_layers=1)
    save_model(GareModel.from_clip(tmp_path / "clip", settings), Config(model=settings), folder)
    write_state(tmp_path / "runs/mine", RunState("digest", "digest", last=folder.name, best=folder.name))
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = readme.partition("```python\n")[2].partition("```")[0]
    names: dict = {}
    exec(code, names)  # noqa: S102 - our own README
    assert names["scores"].shape == (1, 3)
    assert (names["scores"] - names["same"]).abs().max() < 1e-5


def test_the_examples_of_the_python_page_run(tmp_path, toy_clip, monkeypatch, capfd):
    (tmp_path / "configs").mkdir()
    splits = ["train"] * 5 + ["dev"] * 2 + ["test"] * 2
    videos = [make_video(tmp_path / f"{number}.mp4", frames=8, fps=4) for number in range(len(splits))]
    rows = [
        {"video_id": video.stem, "uri": str(video), "split": split, "captions": [f"bar {video.stem}"]}
        for video, split in zip(videos, splits, strict=True)
    ]
    write_manifest(pa.Table.from_pylist(rows, MANIFEST), tmp_path / "manifest.parquet")
    config = toy_config(toy_clip, Path("shards"), Path("runs"))
    (tmp_path / "configs/demo.yaml").write_text(to_yaml(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GARE_QUIET", "0")
    first, settings, *rest = blocks("docs/python.md", "python")
    names: dict = {}
    for code in (first, settings, *rest):
        exec(code, names)  # noqa: S102 - our own document
    assert names["run"].epochs == 3
    assert {names["hit"].rank, names["hit"].video_id} < {2, "7", "8"}
    assert names["config"].train.epochs == 3


def command_lines(document):
    text = "".join(blocks(document, "")).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith("gare ")]


@pytest.mark.parametrize("line", command_lines("docs/reproduce.md"))
def test_the_commands_that_reproduce_the_paper_are_understood(line):
    command, words = cli, shlex.split(line.replace("$seed", "1"))[1:]
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, words)  # parses, and runs nothing
    configs = [word for word in words if word.startswith("configs/")]
    assert all((ROOT / config).is_file() for config in configs)
    load_config(ROOT / configs[0] if configs else None, context.params.get("overrides") or ())
