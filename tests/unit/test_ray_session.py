"""A Ray that cannot be joined or started is one sentence within seconds."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import ray

from gare.common import ray_cluster
from gare.common.errors import RunError
from gare.common.ray_cluster import silence
from gare.config import RuntimeConfig
from gare.launch.ray_session import ray_session


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ray_cluster, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture
def never_started(monkeypatch):
    def init(*_, **__):
        raise AssertionError("Ray was asked to start")

    monkeypatch.setattr(ray, "init", init)


def test_an_address_where_nobody_listens_is_one_sentence(quick, never_started, monkeypatch, free_port):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with (
        pytest.raises(RunError, match=f"RAY_ADDRESS=127.0.0.1:{free_port}: nothing answers"),
        ray_session(RuntimeConfig()),
    ):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_listener_that_never_answers_is_given_up(quick, never_started, monkeypatch, scheme):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(RunError, match="does not answer as Ray does"), ray_session(RuntimeConfig()):
            pass


def test_a_name_whose_addresses_are_never_found_is_given_up(quick, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    assert "neither a connection nor an error" in str(silence("head.invalid:6379"))
    over.set()


def test_a_web_server_is_no_head(quick):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert "does not answer as Ray does" in str(silence(f"127.0.0.1:{server.server_port}"))
        server.shutdown()


def test_the_dashboard_is_no_head():
    assert "the form host:6379" in str(silence("http://127.0.0.1:8265"))


def test_a_temporary_folder_with_too_long_a_path_names_the_variable_to_set(quick, monkeypatch):
    def init(*_, **__):
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RunError, match="set RAY_TMPDIR to a short one"), ray_session(RuntimeConfig()):
        pass


def test_a_home_that_cannot_be_written_names_the_variables_to_set(quick, never_started, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"Set HOME .* or RAY_AUTH_TOKEN_PATH"), ray_session(RuntimeConfig()):
        pass


@pytest.mark.ray
def test_a_head_answers_past_a_proxy_and_its_nodes_are_no_heads(ray_cluster, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert silence(ray.get_runtime_context().gcs_address) is None
    node = ray.nodes()[0]
    assert "is not a head" in str(silence(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"))
