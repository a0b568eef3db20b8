"""What another node has to see, asked of a folder that stands for it."""

from __future__ import annotations

import shutil

import pytest

from gare.common.errors import InputError
from gare.jobs import shared
from gare.jobs.places import Place
from gare.jobs.shared import Probes, check_shared, look


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node that sees the folder ``there`` where this one sees ``here``."""
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("shards/dataset.json", "shards/a.arrow", "video.mp4"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    shutil.copytree(here, there)

    def ask(nodes, probes):
        def moved(path):
            return path.replace(str(here), str(there))

        needed = {label: {moved(path): size for path, size in files.items()} for label, files in probes.needed.items()}
        yield "n", look(Probes(needed, {label: moved(folder) for label, folder in probes.written.items()}))

    monkeypatch.setattr(shared, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(shared, "_other_nodes", lambda: {"id": "n"})
    monkeypatch.setattr(shared, "_ask", ask)
    return here, there


def places(here):
    return [
        Place("runtime.shards", str(here / "shards"), "input"),
        Place("a video", (here / "video.mp4").as_uri(), "input"),
        Place("model.clip", str(here / "not here"), "input"),  # whatever reads it says so
        Place("address", "s3://bucket/x", "input"),
    ]


def test_what_every_node_has_is_fine(node):
    check_shared(places(node[0]))


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda there: shutil.rmtree(there / "shards"), r"runtime.shards is .*, and the node n has no .*shards\\."),
        (lambda there: (there / "shards/a.arrow").unlink(), r"the node n has no .*a\\.arrow"),
        (lambda there: (there / "video.mp4").write_text("another"), r"a video is .*, and the node n has another"),
    ],
)
def test_what_a_node_lacks_is_named(node, break_it, says):
    here, there = node
    break_it(there)
    with pytest.raises(InputError, match=says.replace("\\\\", "\\")):
        check_shared(places(here))


def test_an_output_folder_of_the_same_name_on_another_disk_is_refused_and_nothing_is_left(node):
    here, there = node
    (there / "runs").mkdir()
    output = Place("runtime.output", str(here / "runs"), "output")
    with pytest.raises(InputError, match=r"runtime.output is .*has another folder of that name or none"):
        check_shared([output])
    assert not (here / "runs").exists()
    assert list((there / "runs").iterdir()) == []


def test_a_shared_output_folder_is_fine_and_left_clean(node, monkeypatch):
    here, there = node
    shutil.rmtree(there)
    there.symlink_to(here)
    (here / "runs").mkdir()
    (here / "runs/kept").touch()
    check_shared([Place("runtime.output", str(here / "runs"), "output")])
    assert [path.name for path in (here / "runs").iterdir()] == ["kept"]


def test_one_node_is_asked_nothing(node, monkeypatch):
    here, there = node
    shutil.rmtree(there)
    monkeypatch.setattr(shared, "_other_nodes", dict)
    check_shared([Place("runtime.output", str(here / "runs"), "output")])
    assert not (here / "runs").exists()
