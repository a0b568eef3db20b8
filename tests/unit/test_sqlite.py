"""Addresses of SQLite: whatever a folder is called, the database lies in it."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gare.common.addresses import at_full_path, sqlite_path, sqlite_uri
from gare.common.errors import InputError

NAMES = ["plain", "e?f", "c%20d", "100%", "a'b\"c", "h#x", "sp ace", "ü", "a&b=c", "semi;x", "co:lon", "at@x", "%3F"]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_lies_where_the_path_says_whatever_the_folder_is_called(tmp_path, name):
    path = tmp_path / name / "m.db"
    path.parent.mkdir()
    uri = sqlite_uri(path)
    engine = create_engine(uri)
    with engine.begin() as connection:
        connection.execute(text("create table t (x)"))
    engine.dispose()
    with sqlite3.connect(path) as connection:
        assert connection.execute("select name from sqlite_master").fetchall() == [("t",)]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert sqlite_path(uri) == path
    assert at_full_path(uri) == uri


def test_options_of_an_address_stay_behind_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///a/m.db?timeout=60") == Path("a/m.db")
    assert at_full_path("sqlite:///a/m.db?timeout=60") == f"sqlite:///{tmp_path}/a/m.db?timeout=60"


def test_other_addresses_are_left_alone():
    assert sqlite_path("http://host:5000") is None
    assert at_full_path("http://host:5000") == "http://host:5000"


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:m.db", "sqlite:///?timeout=1"]
)
def test_an_address_that_names_no_file_is_one_sentence(uri):
    with pytest.raises(InputError, match="names no file; write sqlite:///"):
        sqlite_path(uri)
