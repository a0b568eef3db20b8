"""A served index that changes: newer generations are taken up, and what cannot be is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from gare.api.search import maintain
from gare.retrieval.folder import INDEX_FILE
from gare.retrieval.opening import open_index

QUERY = "a red square"


@pytest.fixture
def copied(index, tmp_path):
    shutil.copytree(index.folder, tmp_path / "index")
    return open_index(tmp_path / "index")


def ids(client):
    answer = client.get("/api/search", params={"q": QUERY, "top": 100}).json()
    found = {clip["id"] for video in answer["results"] for clip in (video, *video["moments"])}
    return answer["generation"], found


def test_a_new_generation_is_taken_up_while_the_former_goes_on_answering(copied, client_of):
    client = client_of(copied)
    _, before = ids(client)
    maintain(copied.folder, delete=["train0"], compact=True)
    assert ids(client) == (1, before)  # its files are removed, and still open
    assert client.get("/api/preview/train0").status_code == 200
    client.app.state.library.refresh()
    assert ids(client) == (3, before - {"train0"})
    assert client.get("/api/video/train0").status_code == 404
    assert client.get("/api/preview/train2").status_code == 200
    assert client.get("/api/about").json()["videos"] == len(before) - 1


@pytest.mark.parametrize("change", ["of another model", "damaged", "Cannot read"])
def test_a_generation_that_cannot_be_served_is_left_and_said(copied, client_of, change, capsys, monkeypatch):
    client, path = client_of(copied), copied.folder / INDEX_FILE
    before, content = ids(client), path.read_text()
    values = json.loads(content)
    records = copied.folder / values["segments"][0]["records"]
    if change == "Cannot read":
        records.rename(records.with_suffix(".away"))
        path.write_text(json.dumps(values | {"generation": 2}))
    else:
        path.write_text("{" if change == "damaged" else json.dumps(values | {"weights_sha256": "0" * 64}))
    client.app.state.library.refresh()
    assert ids(client) == before
    assert change in client.get("/api/about").json()["problem"]
    assert "A change of the index is not taken up" in capsys.readouterr().err
    if change == "Cannot read":
        monkeypatch.setattr("time.monotonic", lambda: float("inf"))
        records.with_suffix(".away").rename(records)
    else:
        path.write_text(content)
    client.app.state.library.refresh()
    assert client.get("/api/about").json()["problem"] is None


def test_a_generation_with_a_part_missing_does_not_replace_a_whole_one(copied, client_of, monkeypatch):
    client = client_of(copied)
    before = ids(client)
    maintain(copied.folder, delete=["train0"])
    monkeypatch.setattr("gare.serving.library.reopen_index", lambda *_: replace(open_index(copied.folder), missing=3))
    client.app.state.library.refresh()
    assert ids(client) == before
    assert client.get("/api/about").json()["problem"] == "3 videos of generation 2 cannot be read."


def test_the_server_looks_by_itself(copied, client_of, monkeypatch):
    monkeypatch.setattr("gare.serving.library.LOOK_S", 0.01)
    with client_of(copied) as client:
        maintain(copied.folder, delete=["train0"])
        while client.get("/healthz").json()["generation"] == 1:
            pass
        assert "train0" not in ids(client)[1]


def test_an_index_without_pictures_and_windows_is_served(copied, client_of):
    path = copied.folder / INDEX_FILE
    values = json.loads(path.read_text())
    for segment in values["segments"]:
        del segment["media"]
    del values["previews"], values["windows"]
    path.write_text(json.dumps(values))
    client = client_of(open_index(copied.folder))
    answer = client.get("/api/search", params={"q": QUERY, "top": 100}).json()
    assert len(answer["results"]) == 10
    assert all(not video["pictures"] and video["seconds"] is None for video in answer["results"])
    assert client.get("/api/preview/train0").status_code == 404
    assert client.get("/api/video/train0").status_code == 200
