"""Ray's token: nobody else reads it, and clients send it."""

from __future__ import annotations

import os
import re

import pytest

from gare.common.token import make_token, protect_token, token_file, token_source, use_token, wrong_token


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def write(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("secret")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("named", [False, True])
def test_the_file_is_made_private_and_the_mode_set(tmp_path, monkeypatch, named):
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    file = write(tmp_path / "mine" if named else tmp_path / ".ray" / "auth_token")
    assert token_file() == file
    use_token()
    assert file.stat().st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert token_source() == str(file)


def test_without_a_token_nothing_is_switched_on(monkeypatch):
    use_token()
    protect_token()
    assert "RAY_AUTH_MODE" not in os.environ
    assert token_source() is None


def test_a_mode_that_was_chosen_stays_and_the_variable_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    write(tmp_path / ".ray" / "auth_token")
    use_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert token_source() == "the variable RAY_AUTH_TOKEN"


def test_a_token_is_made_private_from_the_start_and_only_where_ray_would_make_one(tmp_path, monkeypatch):
    file = tmp_path / ".ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    make_token()
    assert not file.exists()
    monkeypatch.delenv("RAY_AUTH_MODE")
    make_token()
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(first) == 64
    make_token()
    assert file.read_text() == first


@pytest.mark.parametrize(
    ("mode", "token", "says"),
    [
        ("token", "", "there is none here: put the cluster's in ~/.ray/auth_token with mode 600"),
        ("token", "hidden", "refuses the token of the variable RAY_AUTH_TOKEN.*and unset RAY_AUTH_TOKEN"),
        ("disabled", "hidden", "unset RAY_AUTH_MODE, so that it is sent"),
    ],
)
def test_a_refusal_says_which_token_it_was_and_never_the_token(monkeypatch, mode, token, says):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    message = wrong_token("The cluster at x")
    assert re.search(says, message)
    assert "hidden" not in message
