"""``gare doctor`` as a command: codes, JSON, and a cluster that is not there."""

from __future__ import annotations

import json
import socket

import pytest

from gare.cli import cli
from gare.cli.command import call


@pytest.fixture
def doctor(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            call(cli, ["doctor", "--json", *arguments], "gare")
        return ended.value.code, json.loads(capfd.readouterr().out)

    return run


def test_a_folder_that_can_be_written_is_fine(doctor, tmp_path):
    code, result = doctor("--output", str(tmp_path / "runs"))
    assert code == 0, result
    assert result["counts"]["fail"] == 0
    assert {"node": "here", "check": "python"}.items() <= result["findings"][0].items()
    assert not (tmp_path / "runs").exists()


def test_what_fails_gives_code_4_and_the_whole_result(doctor, tmp_path):
    (tmp_path / "file").touch()
    code, result = doctor("--output", str(tmp_path / "file" / "runs"))
    assert code == 4
    assert result["counts"]["fail"] == 1
    assert "output" in result["error"]


def test_a_token_that_others_can_read_is_fixed_with_fix(doctor, tmp_path):
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("x" * 32)
    token.chmod(0o644)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        assert doctor()[0] == 4
        assert doctor("--fix")[0] == 0
    assert token.stat().st_mode & 0o777 == 0o600


def test_places_of_a_config_file_start_from_its_root(doctor, tmp_path):
    (tmp_path / "config.yaml").write_text(f"runtime: {{root: {tmp_path}, shards: none, output: runs}}\n")
    code, result = doctor("--config", str(tmp_path / "config.yaml"))
    said = {finding["check"]: finding for finding in result["findings"]}
    assert code == 4
    assert str(tmp_path / "none") in said["shards"]["says"]
    assert (said["output"]["state"], str(tmp_path / "runs") in said["output"]["says"]) == ("ok", True)


def test_settings_that_cannot_be_read_are_a_finding_beside_the_others(doctor):
    code, result = doctor("--set", "runtime.nonsense=1")
    assert code == 4
    assert [finding["check"] for finding in result["findings"] if finding["state"] == "fail"] == ["settings"]
    assert len(result["findings"]) > 5


def test_a_cluster_that_is_not_there_is_said_at_once(doctor, monkeypatch, free_port):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    code, result = doctor("--cluster")
    cluster = next(finding for finding in result["findings"] if finding["check"] == "cluster")
    assert (code, cluster["state"]) == (4, "fail")
    assert "nothing answers" in cluster["says"]


def test_the_note_of_a_dead_cluster_is_not_believed(doctor, monkeypatch, tmp_path, free_port):
    note = tmp_path / "ray_current_cluster"
    note.write_text(f"127.0.0.1:{free_port}")
    monkeypatch.setattr("gare.common.ray_cluster.CURRENT_CLUSTER", note)
    assert "nothing answers" in str(doctor("--cluster")[1])


def test_a_cluster_that_does_not_answer_is_given_up(doctor, monkeypatch):
    from gare.doctor import ray_nodes as nodes

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("gare.common.ray_cluster.silence", lambda _: None)
        monkeypatch.setattr(nodes, "LIMIT_SECONDS", 0.2)
        monkeypatch.setattr(nodes, "_ask_cluster", lambda *_: listening.accept() and listening.accept())
        assert "has not answered" in str(doctor("--cluster")[1])
