"""The files below a folder, and what could not be taken of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

UNREADABLE: Final = "cannot be read"
BROKEN_LINK: Final = "is a link that leads nowhere"
NO_FILE: Final = "is no regular file"
NO_UTF8: Final = "has a name that is not UTF-8"


def files_below(root: str, left_out: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and path of every file, folder by folder, the nearest first; a folder is entered once.

    Symbolic links are followed. Hidden files and folders, whose names begin with a dot, do not count. What else is no
    file that can be named is added to ``left_out``: its path, as text, and one of the reasons above.
    """
    level, seen = [root], set()
    while level:
        below = []
        for folder in level:
            try:
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                left_out[as_text(folder)] = UNREADABLE
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    below.append(entry.path)
                elif kind == "file":
                    yield entry.name, entry.path
                else:
                    left_out[as_text(entry.path)] = kind
        level = below


def as_text(path: str) -> str:
    """A path fit for a message or a file: bytes that are not UTF-8 are shown in hexadecimal."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kind(entry: os.DirEntry[str]) -> str:
    """``file`` or ``folder``, also behind a symbolic link; otherwise the reason why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file" if _is_utf8(entry.path) else NO_UTF8
    except OSError as error:
        return BROKEN_LINK if error.errno == errno.ELOOP else UNREADABLE
    return BROKEN_LINK if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE  # noqa: PTH110


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
