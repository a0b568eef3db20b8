"""What tests share: one small Ray cluster, and the real clips where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gare", deadline=None)  # no test asserts a time, and CI's machine may be busy
settings.load_profile("gare")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported
os.environ.setdefault("RAY_DATA_USE_DATASOURCE_V2", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

OBJECT_STORE_BYTES = 200 * 2**20


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of this session alone; more logical CPUs than there may be cores."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder of real clips named by GARE_FIXTURES; a skip without it, a failure if GARE_REQUIRE_FIXTURES=1."""
    named = os.environ.get("GARE_FIXTURES")
    if named and (Path(named) / "clips").is_dir():
        return Path(named)
    reason = f"GARE_FIXTURES is {named!r}, not a folder with clips/"
    if os.environ.get("GARE_REQUIRE_FIXTURES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory):
    """A small prepared dataset."""
    from tests import toy

    return toy.make_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 18, "dev": 5, "test": 6})


@pytest.fixture(scope="session")
def toy_clip(tmp_path_factory):
    """A small CLIP model."""
    from tests import toy

    return toy.make_toy_clip(tmp_path_factory.mktemp("toy") / "clip")


@pytest.fixture
def toy_run(toy_clip, toy_shards, tmp_path):
    """Make the settings of a run in a folder of this test."""
    from tests import toy

    return lambda *overrides, output="runs": toy.toy_config(toy_clip, toy_shards, tmp_path / output, *overrides)


@pytest.fixture
def call(capfd):
    """Run a command line here: exit code and the lines of standard error."""

    from gare.cli import main

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, capfd.readouterr().err.strip().splitlines()

    return call
