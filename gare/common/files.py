"""Write files so that readers see them complete or not at all, and name contents by digest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gare.common.errors import GareError, InputError
from gare.common.redact import printable_json

DIGEST_CHARACTERS = 16


def indented_json(value: Any) -> str:
    """Return a plain value as JSON for files: sorted keys, NaN refused, and safe to print."""
    return printable_json(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)) + "\n"


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a plain value: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_of(value: Any) -> str:
    """Return a short, stable name for a plain value: the first 16 hex digits of SHA-256 over its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGEST_CHARACTERS]


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits; OSError, which names the file, if it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def fsync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def errno_of(error: BaseException) -> int | None:
    """Return an error's errno, also if safetensors or torch turned the OSError into another error."""
    of_torch = isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container", str(error))
    inner: BaseException | None = error if isinstance(error, OSError) or of_torch else None
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            return inner.errno
        inner = inner.__context__
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None


@contextmanager
def os_errors_as_input(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the system inside the block into an InputError which says that ``path`` cannot be written.

    An error that names a file outside the folder of ``path`` passes unchanged: that file was read.
    """
    try:
        yield
    except GareError:
        raise
    except Exception as error:
        named = error.filename if isinstance(error, OSError) else None
        if isinstance(named, str) and not Path(named).absolute().is_relative_to(Path(path).absolute().parent):
            raise
        number = errno_of(error)
        if number is None and not isinstance(error, OSError):
            raise
        why = error if number is None else os.strerror(number)
        raise InputError(f"Cannot write {os.fspath(path)}: {why}.") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and its missing parents; InputError if that fails."""
    folder = Path(path)
    refuse_file(folder)
    with os_errors_as_input(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_unwritable(path: str | os.PathLike[str]) -> None:
    """Raise InputError if you may not write into a folder or, if it is missing, make it; nothing is made."""
    folder = Path(path).absolute()
    refuse_file(folder)
    there = next(above for above in (folder, *folder.parents) if above.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise InputError(f"Cannot write {folder}: {os.strerror(number)}.")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success sync it and rename it into place.

    A failure inside the block removes the temporary file and leaves ``path`` unchanged. Raises InputError if ``path``
    cannot be written, or is a folder or a device, which renaming would replace.
    """
    target = Path(path)
    with os_errors_as_input(target):
        if target.exists() and not target.is_file():
            raise InputError(f"Cannot write {target}: it is a {'folder' if target.is_dir() else 'device or pipe'}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
            fsync_directory(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; on success put it in place of ``path``.

    An existing folder is moved aside first and removed last, so a half-written one is never visible. Raises InputError
    if it cannot be written, and, before anything else, if it holds things but not the file ``marker``, which tells a
    folder of this kind from one that must not be lost.
    """
    target = Path(os.path.abspath(path))  # noqa: PTH100 - symlinks stay
    with os_errors_as_input(target):
        _refuse_foreign(target, marker)
        with _replacing(target) as temporary:
            yield temporary


def refuse_file(target: Path) -> None:
    """Raise InputError if something other than a folder has its name."""
    if target.exists() and not target.is_dir():
        raise InputError(f"Cannot write {target}: it is a file, and a folder is needed.")


def _refuse_foreign(target: Path, marker: str) -> None:
    refuse_file(target)
    if target.is_dir() and not (target / marker).is_file() and any(target.iterdir()):
        raise InputError(f"{target} holds other things and no {marker}; choose a new or empty folder.")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        mask = _umask()
        for path in (temporary, *temporary.rglob("*")):
            if path.is_file():
                with open(path, "rb+") as stream:
                    os.fsync(stream.fileno())
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)  # some libraries write for the owner alone
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        try:
            if target.exists():
                target.replace(old / target.name)
            temporary.replace(target)
            fsync_directory(target.parent)
        finally:
            if not target.exists() and (old / target.name).exists():
                (old / target.name).replace(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def staged_files(folder: str | os.PathLike[str], names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder for some of the files ``names``, which on success replace all of those in ``folder``.

    A failure inside the block leaves ``folder`` unchanged. The first name is the record: it is removed first and
    written last, so that a record never lies next to files of another time.
    """
    target = make_folder(folder)
    with os_errors_as_input(target):
        staging = Path(tempfile.mkdtemp(prefix=".staged.", suffix=".tmp", dir=target))
        try:
            yield staging
            record, *others = names
            (target / record).unlink(missing_ok=True)
            for name in (*others, record):
                if (staging / name).is_file():
                    (staging / name).replace(target / name)
                else:
                    (target / name).unlink(missing_ok=True)
            fsync_directory(target)
        except InputError as error:
            raise InputError(str(error).replace(str(staging), str(target))) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a plain value as indented JSON, atomically; NaN is refused."""
    write_text(path, indented_json(value))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
