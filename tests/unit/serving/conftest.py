"""An index that is served, without a socket."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from gare.serving.app import make_app
from tests.served import make_served


@pytest.fixture(scope="session")
def index(tmp_path_factory, toy_clip):
    return make_served(tmp_path_factory.mktemp("served"), toy_clip)


@pytest.fixture
def client_of():
    """Make a client of the application of an index."""

    def make(index, **how):
        return TestClient(make_app(index, **how), base_url="http://localhost", follow_redirects=False)

    return make


@pytest.fixture
def client(index, client_of):
    return client_of(index)
