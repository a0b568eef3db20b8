"""What the server answers: searches, filters, similar videos, pictures, files in ranges, and what it refuses."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from urllib.parse import quote

import jsonschema
import pytest
from PIL import Image

from gare.serving.answers import openapi
from tests.page import HOSTILE, Page
from tests.served import CLIPS, NASTY

QUERY = "a red square left"


def asked(client, path, **parameters):
    response = client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def by_id(answer):
    return {video["id"]: video for video in answer["results"]}


def test_every_answer_is_as_the_published_schema_says(client):
    document = asked(client, "/openapi.json")
    assert document == openapi()
    answers = {
        "Results": [
            asked(client, "/api/search", q=QUERY),
            asked(client, f"/api/similar/{quote(NASTY, safe='')}", top=1),
        ],
        "About": [asked(client, "/api/about")],
        "Health": [asked(client, "/healthz")],
        "Failure": [client.get("/api/search").json()],
    }
    for name, values in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        for value in values:
            jsonschema.Draft202012Validator(schema).validate(value)
    routes = {route.path.replace(":path", "") for route in client.app.routes}
    assert set(document["paths"]) == {path for path in routes if path.startswith("/api/")} | {"/healthz"}


def test_the_answers_are_those_of_the_index_with_its_clips_grouped(client, index):
    found = asked(client, "/api/search", q=QUERY, top=100)
    hits = index.search(QUERY, 100)
    first = {hit.uri: hit for hit in reversed(hits)}
    assert [video["id"] for video in found["results"]] == [
        hit.video_id for hit in sorted(first.values(), key=lambda h: h.rank)
    ]
    assert [video["score"] for video in found["results"]] == sorted((h.score for h in first.values()), reverse=True)
    (long,) = [video for video in found["results"] if video["name"] == "long"]
    assert {long["id"], *(moment["id"] for moment in long["moments"])} == set(CLIPS)
    assert len(found["results"]) == 10
    assert found["searched"]["text"] == "scored all 12 videos"
    assert (found["more"], found["generation"]) == (False, 1)


def test_pages_of_answers_join_to_all(client):
    whole = [video["id"] for video in asked(client, "/api/search", q=QUERY, top=100)["results"]]
    parts = [asked(client, "/api/search", q=QUERY, top=4, offset=start) for start in (0, 4, 8)]
    assert [video["id"] for part in parts for video in part["results"]] == whole
    assert [part["more"] for part in parts] == [True, True, False]


def test_the_seconds_are_those_of_a_window_inside_the_clip(client):
    found = by_id(asked(client, "/api/search", q=QUERY, top=100))
    for video in found.values():
        for moment in (video, *video["moments"]):
            if moment["seconds"] is not None:
                start, end = moment["seconds"]
                assert moment["start_s"] == start < end
            if moment["id"] in CLIPS:
                begins = CLIPS.index(moment["id"])
                assert begins <= moment["start_s"] < begins + 1


def test_a_filter_leaves_its_videos_and_counts_what_else_could_be_chosen(client):
    every = {facet["name"]: facet for facet in asked(client, "/api/about")["facets"]}
    assert {value["value"]: value["videos"] for value in every["n"]["values"]} == {"0": 6, "1": 5}
    found = asked(client, "/api/search", q=QUERY, top=100, where=["n=0", "colour=red"])
    assert {video["id"] for video in found["results"]} == {"train0", "train8", CLIPS[1]}
    assert found["searched"]["videos"] == 3
    counts = {f["name"]: {v["value"]: v["videos"] for v in f["values"]} for f in found["facets"]}
    assert counts["colour"] == {"red": 3, "blue": 3}  # those of n = 0
    assert counts["n"] == {"0": 3}  # those of red
    assert set(by_id(asked(client, "/api/search", q=QUERY, where=f"{NASTY}=yes"))) == {NASTY}
    nobody = asked(client, "/api/search", q=QUERY, where="colour=none")
    assert (nobody["results"], nobody["searched"]["videos"]) == ([], 0)


def test_videos_like_one_leave_it_out(client):
    found = asked(client, "/api/similar/train0", top=100)
    assert "train0" not in by_id(found)
    assert len(found["results"]) == 9


def test_videos_like_one_may_be_none(client):
    found = asked(client, "/api/similar/train0", where="n=2", top=100)
    assert (found["results"], found["searched"]["videos"]) == ([], 0)


def test_a_link_with_the_name_of_a_video_shows_no_other_file(index, client_of, tmp_path):
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    video = Path(index.segments[0].table["uri"][0].as_py())
    kept = video.read_bytes()
    video.unlink()
    video.symlink_to(tmp_path / "secret.txt")
    try:
        response = client_of(index).get("/api/video/train0")
    finally:
        video.unlink()
        video.write_bytes(kept)
    assert (response.status_code, response.json()["error"]) == (404, "The file is not a video that browsers play.")


def test_pictures_are_small_jpegs_and_end(client, index):
    video = by_id(asked(client, "/api/search", q=QUERY, top=100))["train2"]
    assert [picture["at_s"] for picture in video["pictures"]] == [0.0, 1.0, 2.0]
    for picture in video["pictures"]:
        response = client.get(picture["url"])
        assert response.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(response.content)) as image:
            assert image.size == (32, 32)
    assert client.get("/api/preview/train2?n=3").status_code == 404
    assert client.get("/api/preview/train2?n=-1").status_code == 400
    assert client.get("/api/preview/nobody").status_code == 404


def test_a_file_is_sent_whole_and_in_ranges(client, index):
    content = (index.folder.parent / "videos" / "play.mp4").read_bytes()
    whole = client.get("/api/video/train0")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, content, "video/mp4")
    part = client.get("/api/video/train0", headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert client.get("/api/video/train0", headers={"range": f"bytes={len(content)}-"}).status_code == 416
    assert client.head("/api/video/train0").headers["content-length"] == str(len(content))


def test_what_cannot_be_played_is_shown_and_says_why(client):
    found = by_id(asked(client, "/api/search", q=QUERY, top=100))
    assert found["train0"]["why_not"] is None
    for video_id, why in (
        ("train2", "Browsers do not play avi files."),
        ("train6", "The file is gone."),
        (NASTY, "The file is gone."),
    ):
        assert (found[video_id]["video"], found[video_id]["why_not"]) == (None, why)
        assert found[video_id]["pictures"]
        response = client.get(f"/api/video/{quote(video_id, safe='')}")
        assert (response.status_code, response.json()) == (404, {"error": why})


@pytest.mark.parametrize(
    "path",
    [
        "/api/video/../../etc/passwd",
        "/api/video/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/api/video//etc/passwd",
        "/api/video/%2Fetc%2Fpasswd",
        "/api/video/file%3A%2F%2F%2Fetc%2Fpasswd",
        "/api/preview/..%2f..%2findex.json",
        "/page.py",
        "/../app.py",
        "/index/index.json",
    ],
)
def test_a_path_finds_nothing(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/search", "Give a sentence"),
        ("/api/search?q=%20%20", "Give a sentence"),
        ("/api/search?q=a&q=b", "more than once"),
        (f"/api/search?q={'a' * 1001}", "longer than 1,000"),
        ("/api/search?q=a&top=0", "from 1 to 100"),
        ("/api/search?q=a&top=101", "from 1 to 100"),
        ("/api/search?q=a&top=1e1", "whole number"),
        ("/api/search?q=a&top=%D9%A1", "whole number"),
        ("/api/search?q=a&offset=1001", "from 0 to 1,000"),
        ("/api/search?q=a&where=colour", "where=KEY=VALUE"),
        ("/api/search?q=a&where=none=1", "such an attribute"),
        ("/api/search?q=a&where=n=0&where=n=1", "more than once"),
        (f"/api/search?q=a&where=colour={'a' * 1001}", "where=KEY=VALUE"),
        ("/api/search?q=a" + 17 * "&where=n=0", "more than 16"),
        ("/api/search?q=a&exact=perhaps", "true or false"),
    ],
)
def test_an_argument_out_of_its_limits_is_a_sentence(client, path, says):
    response = client.get(path)
    assert response.status_code == 400
    assert says in response.json()["error"]


def test_a_query_of_any_characters_is_answered(client):
    for query in ("\0", "\U0001f600", NASTY, "a" * 1000, "%00", "' OR 1=1 --"):
        assert len(asked(client, "/api/search", q=query)["results"]) == 10
    assert client.get("/api/search?q=%ff%fe").status_code == 200


def test_a_full_queue_answers_503_and_says_when_to_ask_again(index, client_of, monkeypatch):
    entered, leave = threading.Semaphore(0), threading.Event()
    original = type(index).search

    def slow(self, *args, **named):
        entered.release()
        assert leave.wait(30)
        return original(self, *args, **named)

    monkeypatch.setattr(type(index), "search", slow)
    with client_of(index, threads=1, queue=1) as client:
        codes = []
        waiting = [
            threading.Thread(target=lambda: codes.append(client.get("/api/search?q=a").status_code)) for _ in range(2)
        ]
        waiting[0].start()
        assert entered.acquire(timeout=30)
        waiting[1].start()
        while client.app.state.library._busy < 2:
            pass
        full = client.get("/api/search?q=a")
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/preview/train0").status_code == 200
        leave.set()
        for thread in waiting:
            thread.join(30)
    assert codes == [200, 200]


def test_the_page_is_whole_by_the_standard_and_stays_so_with_a_hostile_name(client, index):
    plain, text = client.get("/"), client.get("/").text
    page = Page(text)
    assert set(page.loads) <= {"/page.svg", "/page.css", "/page.js", "/openapi.json", "#results", "/"}
    assert "script-src 'self'" in plain.headers["content-security-policy"]
    assert "unsafe" not in plain.headers["content-security-policy"]
    client.app.state.library.name = HOSTILE
    assert Page(client.get("/").text).shape() == page.shape()
    for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/page.svg", "image/svg+xml")):
        response = client.get(path)
        assert (response.status_code, response.headers["content-type"].partition(";")[0]) == (200, kind)
        assert "{%" not in response.text
    assert "innerHTML" not in client.get("/page.js").text


def test_an_error_of_the_server_gives_away_nothing(client, index, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("a secret at /home/someone")

    monkeypatch.setattr(type(index), "search", broken)
    response = client.get("/api/search?q=a")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "a secret at /home/someone" in capsys.readouterr().err
