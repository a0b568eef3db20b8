"""A dataset, a cache to copy it to, and what was copied."""

from __future__ import annotations

import pytest

from gare.common.storage import Folder
from gare.data.cache import Cache
from tests.made_cache import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "set")


@pytest.fixture
def cache(tmp_path):
    return Cache(str(tmp_path / "cache"), mounted=True, threads=2)


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that were copied."""
    names, true_fetch = [], Folder.fetch

    def fetch(self, name, target, *, on_chunk=None):
        names.append(name)
        true_fetch(self, name, target, on_chunk=on_chunk)

    monkeypatch.setattr(Folder, "fetch", fetch)
    return names
