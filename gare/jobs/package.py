"""Package the files sent with a job: a checkout's code and the command's config files; no data, no results."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gare
from gare.common.errors import InputError

CODE = ("gare", "pipelines", "tune")
"""The packages of this software, as folders in its checkout."""

LEFT_OUT = (
    ".*", "__pycache__", "build", "*.egg-info", "node_modules", "venv", "auth_token",
    "shards", "demo", "mlruns", "videos", "checkpoints", "*.db", "*.arrow", "*.parquet", "*.pt",
    "*.safetensors", "*.mp4", "*.mkv", "*.webm", "*.avi", "*.mov",
)  # fmt: skip
"""Names of files and folders that are never code, whether git ignores them or not."""

MOST_BYTES = 20 * 2**20
NAMED_FILES = 3


@dataclass(frozen=True)
class Package:
    """A folder to send, and its contents."""

    folder: Path
    files: int
    size: int
    checkout: Path | None


def checkout() -> Path | None:
    """Return the folder of the checkout that gare is imported from; None if gare is installed as a package."""
    root = Path(gare.__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None


def make_package(folder: Path, configs: Mapping[str, Path], *, code: Path | None) -> Package:
    """Copy the code of the checkout ``code``, if any, and ``configs`` (name there -> file) into ``folder``.

    Raises InputError naming the largest files if that is more than 20 MiB.
    """
    sources = {name: code / name for name in code_files(code)} if code else {}
    sources |= configs
    sizes = {name: source.stat().st_size for name, source in sources.items()}
    total = sum(sizes.values())
    if total > MOST_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:NAMED_FILES]
        listed = ", ".join(f"{sources[name]} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
        raise InputError(
            f"The code to send takes {total / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f} MB; the largest files are "
            f"{listed}. Keep data outside of the code's folders, or list it in .gitignore."
        )
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return Package(folder, len(sources), total, code)


def code_files(root: Path) -> list[str]:
    """Return the sorted names of code files in the checkout ``root``: those git does not ignore, without LEFT_OUT."""
    listed = _listed_by_git(root)
    names = listed if listed is not None else list(_walk(root))
    return sorted(name for name in names if not _left_out(name) and (root / name).is_file())


def _listed_by_git(root: Path) -> list[str] | None:
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    return names if done.returncode == 0 and names else None


def _walk(root: Path) -> Iterator[str]:
    for package in CODE:
        for folder, folders, files in os.walk(root / package):
            folders[:] = [name for name in folders if not _left_out(name)]
            yield from ((Path(folder) / name).relative_to(root).as_posix() for name in files)


def _left_out(name: str) -> bool:
    return any(_matches(part, LEFT_OUT) for part in name.split("/"))


def _matches(part: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(part, pattern) for pattern in patterns)
