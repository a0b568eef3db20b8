"""Who may ask the server: hosts, other sites, tokens and methods."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from gare.serving.guard import SAFE, Guard

TOKEN = "a-word-of-some-length"  # noqa: S105


async def answering(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def client(base="http://localhost", **how):
    return TestClient(Guard(answering, **how), base_url=base, follow_redirects=False)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("localhost:8090", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8090", 200),
        ("LOCALHOST", 200),
        ("box.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8090", 403),
        ("localhost@evil.example", 403),
        ("evil.example@localhost", 200),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_only_names_of_this_server_are_answered(host, code):
    response = client(hosts={"localhost", "127.0.0.1", "::1", "Box.example"}).get("/api/about", headers={"host": host})
    assert response.status_code == code
    assert (response.text == "inside") == (code == 200)


@pytest.mark.parametrize(
    ("path", "site", "mode", "code"),
    [
        ("/api/search", "same-origin", "cors", 200),
        ("/api/search", "none", "navigate", 200),
        ("/api/search", "cross-site", "no-cors", 403),
        ("/api/video/a", "same-site", "no-cors", 403),
        ("/api/search", "cross-site", "navigate", 403),
        ("/", "cross-site", "navigate", 200),
        ("/", "cross-site", "no-cors", 403),
    ],
)
def test_pages_of_other_sites_get_nothing(path, site, mode, code):
    assert client().get(path, headers={"sec-fetch-site": site, "sec-fetch-mode": mode}).status_code == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_reading_is_answered(method):
    response = client().request(method, "/api/search")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


def test_with_a_token_each_request_brings_it():
    guarded = client("http://any.example", token=TOKEN)
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "gare=\x01;;="},
    ):
        response = guarded.get("/api/search", headers=headers)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.get(f"/api/search?token={TOKEN}").status_code == 401  # it would stay in histories
    assert guarded.get("/api/search", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert guarded.get("/?token=wrong").status_code == 401
    assert guarded.get("/healthz").status_code == 200


def test_the_address_with_the_token_leaves_it_in_a_cookie_of_its_own():
    guarded, other = client(token=TOKEN), client(token=TOKEN + "2")
    entered = guarded.get(f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert guarded.get("/api/search").status_code == 200
    other.cookies = guarded.cookies
    assert other.get("/api/search").status_code == 401
    for foreign in ("a[b]=1", "novalue", 'x={"a":1,"b":2}', "x=a b"):
        kept = f"{foreign}; {cookie.partition(';')[0]}"
        assert client(token=TOKEN).get("/api/search", headers={"cookie": kept}).status_code == 200, foreign
    assert other.get(f"/?token={TOKEN}2").headers["set-cookie"].partition("=")[0] != cookie.partition("=")[0]


def test_every_answer_binds_the_browser():
    for response in (client().get("/"), client().get("/", headers={"host": "evil"}), client(token=TOKEN).get("/")):
        assert {name: response.headers[name] for name in SAFE} == SAFE
        assert response.headers["cache-control"] == "no-store"
