"""What travels with a job: all of the code, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import gare
from gare.common.errors import InputError
from gare.jobs import package
from gare.jobs.package import checkout, code_files, make_package

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path):
    """A checkout with code, data and results, known to git."""
    root = tmp_path / "checkout"
    kept = ["gare/__init__.py", "gare/data/feed.py", "gare/configs/demo.yaml", "tune/new.py"]
    left = [
        "gare/.env", "gare/runs/1/model.safetensors", "gare/shards/a.arrow", "pipelines/videos/a.mp4", "gare/mlflow.db",
        "gare/auth_token", "gare/ignored/x.py", "docs/x.md", "runs/a/config.yaml", ".git-credentials", "tune/clip.mkv",
    ]  # fmt: skip
    for name in kept + left:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "pyproject.toml").touch()
    return root, sorted(kept)


def test_code_travels_without_data_results_and_what_git_ignores(project):
    root, kept = project
    (root / ".gitignore").write_text("ignored/\n")
    subprocess.run(["git", "init", "-q", root], check=True)
    assert code_files(root) == kept


def test_without_git_too(project, monkeypatch):
    root, kept = project
    monkeypatch.setattr(package, "_listed_by_git", lambda _: None)
    assert code_files(root) == sorted([*kept, "gare/ignored/x.py"])


def test_none_of_this_projects_code_is_left_out():
    there = {p.relative_to(ROOT).as_posix() for name in package.CODE for p in (ROOT / name).rglob("*.py")}
    assert set(code_files(ROOT)) >= there
    assert {"gare/configs/demo.yaml", "gare/evaluation/report/report.html"} <= set(code_files(ROOT))


def test_too_much_is_refused_with_the_largest_files_named(project, tmp_path, monkeypatch):
    root, _ = project
    (root / "gare/big.bin").write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(package, "MOST_BYTES", 2_000_000)
    with pytest.raises(InputError, match=r"takes 3.0 MB, more than 2 MB; the largest files are .*big.bin \(3.0 MB\)"):
        make_package(tmp_path / "out", {}, code=root)
    assert not (tmp_path / "out").exists()


def test_an_installed_package_sends_the_config_files_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(gare, "__file__", str(tmp_path / "site-packages/gare/__init__.py"))
    assert checkout() is None
    config = tmp_path / "a.yaml"
    config.write_text("train: {epochs: 3}")
    made = make_package(tmp_path / "out", {"submitted/a.yaml": config}, code=checkout())
    assert made.files == 1
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["a.yaml"]
