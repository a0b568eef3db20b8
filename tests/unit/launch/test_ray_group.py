"""Ranks on several machines talk over the network that Ray's nodes use."""

from __future__ import annotations

import os
import socket
from collections import namedtuple

import pytest

from gare.launch import ray_ranks

Address = namedtuple("Address", "family address")


@pytest.fixture
def interfaces(monkeypatch):
    monkeypatch.delenv(ray_ranks.INTERFACE_VARIABLE, raising=False)
    link = Address(socket.AF_PACKET, "00:00:00:00:00:00") if hasattr(socket, "AF_PACKET") else Address(-1, "00")
    monkeypatch.setattr(
        ray_ranks.psutil,
        "net_if_addrs",
        lambda: {
            "lo": [Address(socket.AF_INET, "127.0.0.1"), Address(socket.AF_INET6, "::1"), link],
            "eth0": [link, Address(socket.AF_INET, "10.0.0.7"), Address(socket.AF_INET6, "fe80::1%eth0")],
        },
    )


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.0.0.7", "eth0"), ("127.0.0.1", "lo"), ("fe80::1", "eth0"), ("127.0.1.1", None), ("10.0.0.70", None)],
)
def test_the_interface_is_the_one_that_has_the_nodes_address(interfaces, address, name):
    assert ray_ranks.interface_of(address) == name


@pytest.mark.parametrize(("given", "used"), [(None, "eth0"), ("ib0", "ib0")])
def test_gloo_uses_it_unless_the_environment_says_otherwise(interfaces, monkeypatch, given, used):
    monkeypatch.setattr(ray_ranks.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    if given is not None:
        monkeypatch.setenv(ray_ranks.INTERFACE_VARIABLE, given)
    else:
        monkeypatch.setenv(ray_ranks.INTERFACE_VARIABLE, "")  # so that it is put back afterwards
        monkeypatch.delenv(ray_ranks.INTERFACE_VARIABLE)
    ray_ranks.use_nodes_interface()
    assert os.environ[ray_ranks.INTERFACE_VARIABLE] == used


def test_an_error_of_rays_controller_is_told_by_its_cause():
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError

    from gare.launch.ray_train import _root

    cause = RayTaskError("f", "Traceback ...\nRuntimeError: ranks do not answer", RuntimeError("x"))
    assert _root(ControllerError(cause)).endswith("RuntimeError: ranks do not answer")
    assert _root(ControllerError(ValueError("no room\nat all"))) == "no room"
