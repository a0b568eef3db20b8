"""Find each video's file in a folder, whatever its extension, case and subfolder."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from gare.common.errors import InputError
from pipelines.manifest.files import as_text, files_below

BESIDE_VIDEOS: Final = frozenset(
    {
        "aac", "ass", "csv", "description", "flac", "h5", "hdf5", "info", "jpeg", "jpg", "json", "log", "m4a", "md5",
        "mp3", "npy", "npz", "part", "pickle", "pkl", "png", "pt", "srt", "tar", "tmp", "torrent", "tsv", "txt", "vtt",
        "wav", "webp", "xml", "yaml", "ytdl", "zip",
    }
)  # fmt: skip
"""Extensions of other files commonly found in a folder of videos; never a video."""


@dataclass(frozen=True)
class Found:
    """The file of each video that has one, and all candidates of videos that had several; the first is used.

    ``left_out``: paths that could not be read or named, with the reason, as ``files_below`` gives it.
    """

    files: dict[str, str]
    several: dict[str, list[str]]
    left_out: dict[str, str]


def stem_of(name: str) -> str:
    """Return a file's name without its last extension: ``a.b.mp4`` -> ``a.b``, ``a.`` -> ``a``, ``a`` -> ``a``."""
    return name.rpartition(".")[0] or name


def find_videos(wanted: Mapping[str, Sequence[str]], root: Path) -> Found:
    """Find the files of videos, given by id with the names each may have, likeliest first.

    Match a video's names exactly, then without the file's extension, then both again ignoring case. Among several
    matches take the one nearest to ``root``, then the first by name. No file is used for two videos. Raises
    InputError if the folder does not exist or holds no file.
    """
    index = _Index(root)
    files: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for exact, whole in itertools.product((True, False), repeat=2):
        taken = set(files.values())
        for video_id, names in wanted.items():
            if video_id in files:
                continue
            candidates = [path for path in index.find(names, whole=whole, exact=exact) if path not in taken]
            if candidates:
                files[video_id] = candidates[0]
                taken.add(candidates[0])
            if len({os.path.realpath(path) for path in candidates}) > 1:
                several[video_id] = candidates
    return Found(files, several, index.left_out)


class _Index:
    """All files below a folder, indexed by name and by stem in lower case; each list is nearest first."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"There is no folder {root}; --videos is the folder of the video files.")
        self.left_out: dict[str, str] = {}
        self._names: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._stems: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name, path in files_below(os.path.abspath(root), self.left_out):  # noqa: PTH100 - symlinks stay
            if name.rpartition(".")[2].lower() not in BESIDE_VIDEOS:
                for index, key in ((self._names, name), (self._stems, stem_of(name))):
                    index[key.lower()].append((key, path))
        if not self._names:
            left_out = "".join(f" {path} {why}." for path, why in islice(self.left_out.items(), 1))
            raise InputError(f"{as_text(str(root))} holds no video file; --videos is the folder of them.{left_out}")

    def find(self, names: Sequence[str], *, whole: bool, exact: bool) -> list[str]:
        """Return the paths of files with these names, as whole names or as stems; paths of earlier names come first."""
        index = self._names if whole else self._stems
        found = (path for name in names for there, path in index.get(name.lower(), ()) if not exact or there == name)
        return list(dict.fromkeys(found))
