"""A folder on any storage that pyarrow can open, where files appear complete or not at all.

- local and mounted folders: a temporary name next to the file, fsync, rename, fsync of the folder;
- object stores (s3, gs, abfs): the upload becomes an object when it is closed, and never before;
- hdfs: a temporary name next to the file, then a rename.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from gare.common.addresses import as_uri, without_options
from gare.common.errors import InputError, StorageError
from gare.common.files import atomic_file, indented_json, make_folder, os_errors_as_input
from gare.common.redact import first_line, redact
from gare.common.text import decode

SCHEMES = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"})
"""Schemes of the file systems that pyarrow includes, without http, whose addresses may be anything."""

PUT_IS_ATOMIC = frozenset({"s3", "gcs", "abfs"})
"""pyarrow's names of the stores where an object only appears once its upload is closed."""

PAUSES_S = (0.2, 1.0)
"""Seconds before each retry of a failed local read; clients of other storage retry by themselves."""

Read = TypeVar("Read")


def is_address(place: str) -> bool:
    """Return whether a place has a scheme and is not a path."""
    return "://" in place


@dataclass(frozen=True)
class Folder:
    """A folder by its path or address, which can be sent between processes; names below it are relative, with slashes.

    Any failure of the storage is an InputError that names the file.
    """

    address: str

    @classmethod
    def at(cls, place: str | Path) -> Folder:
        """Return the folder of a path (made absolute) or an address; InputError if it cannot be opened."""
        text = str(place)
        if not is_address(text):
            return cls(_in_utf8(str(Path(text).absolute())))
        text = as_uri(text)
        parts = urlsplit(text)
        if parts.scheme == "file":
            return cls(unquote(parts.path).rstrip("/") or "/")
        if parts.scheme not in SCHEMES:
            raise InputError(
                f"{redact(text)} cannot be opened: addresses start with {', '.join(sorted(SCHEMES))} or file."
            )
        return cls(text)

    def __str__(self) -> str:
        return redact(self.address.partition("?")[0])

    @property
    def is_local(self) -> bool:
        """Return whether this is a folder of the local file system."""
        return not is_address(self.address)

    @property
    def local(self) -> Path:
        """Return the path of a local folder; InputError for any other."""
        if not self.is_local:
            raise InputError(f"{self} is not a folder of the file system here, which is needed for this.")
        return Path(self.address)

    def below(self, name: str) -> Folder:
        """Return the folder ``name`` inside this one."""
        if self.is_local:
            return Folder(f"{self.address.rstrip('/')}/{name}")
        address, options = without_options(self.address)
        return Folder(f"{address.rstrip('/')}/{quote(name)}{options}")

    def named(self, name: str) -> str:
        """Return the path or address of a file for messages."""
        return f"{str(self).rstrip('/')}/{name}"

    def exists(self, name: str = "") -> bool:
        """Return whether there is such a file or folder."""
        return bool(self._info(name).type != FileType.NotFound)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is none."""
        info = self._info(name)
        return int(info.size) if info.type == FileType.File and info.size is not None else None

    def names(self, below: str = "") -> list[str]:
        """List the names of the files directly in a folder below, sorted; empty if there is no such folder."""
        return sorted(self.sizes(below))

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return name and size in bytes of the files directly in a folder below."""

        def files(system: Any, path: str) -> dict[str, int]:
            found = system.get_file_info(FileSelector(path, allow_not_found=True))
            return {info.base_name: int(info.size or 0) for info in found if info.type == FileType.File}

        return self._read(below, files)

    def tree(self, below: str = "") -> dict[str, int]:
        """Return name and size in bytes of all files below a folder, at any depth; names are relative to it.

        InputError for a name that leads elsewhere.
        """
        system, path = self._open(below)
        with self._sentence("read", below):
            found = system.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
            sizes = {
                info.path.removeprefix(path).lstrip("/"): int(info.size or 0)
                for info in found
                if info.type == FileType.File
            }
        for name in sizes:
            if not name or ".." in name.split("/"):
                raise InputError(
                    f"{self.named(below)} holds a file named {name!r}, which leads elsewhere and cannot be used."
                )
        return sizes

    def source(self, name: str, *, mapped: bool = True) -> pa.NativeFile:
        """Open a file for random reads; FileNotFoundError if it is missing.

        A local one is memory-mapped unless ``mapped`` is false; with a mapped file, a failing disk ends the process.
        """
        if self.is_local and mapped:
            return pa.memory_map(str(self.local / name))
        return self._read(name, lambda system, path: system.open_input_file(path))

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, as 64 hex digits; FileNotFoundError if it is missing."""

        def digest(system: Any, path: str) -> str:
            found = hashlib.sha256()
            with system.open_input_stream(path, compression=None) as stream:
                while chunk := stream.read(2**20):
                    found.update(chunk)
            return found.hexdigest()

        return self._read(name, digest)

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file; FileNotFoundError if it is missing."""

        def content(system: Any, path: str) -> bytes:
            with system.open_input_stream(path, compression=None) as stream:
                return bytes(stream.read())

        return self._read(name, content)

    def read_text(self, name: str) -> str | None:
        """Read a UTF-8 file; None if it is missing, InputError if it is not text."""
        try:
            return decode(self.read_bytes(name))
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise InputError(f"{self.named(name)} is damaged: it is not UTF-8 text.") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a plain value as indented JSON; NaN is refused."""
        with self.writing(name) as path:
            path.write_text(indented_json(value), encoding="utf-8")

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary local file; on success it becomes the file ``name``. A failure leaves nothing."""
        if self.is_local:
            with atomic_file(self.local / name) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="gare-") as scratch:
            temporary = Path(scratch) / Path(name).name
            with os_errors_as_input(temporary):
                yield temporary
            self._upload(temporary, name)

    def put(self, path: Path, name: str) -> None:
        """Copy a local file to the file ``name``, which appears complete."""
        if self.is_local:
            with self.writing(name) as temporary:
                shutil.copyfile(path, temporary)
        else:
            self._upload(path, name)

    def fetch(self, name: str, target: Path, *, on_chunk: Callable[[bytes], None] | None = None) -> None:
        """Copy a file to a local path, calling ``on_chunk`` with each piece; FileNotFoundError if it is missing."""
        system, path = self._open(name)
        with self._sentence("read", name), system.open_input_stream(path, compression=None) as source:
            with os_errors_as_input(target):
                sink = target.open("wb", buffering=0)
            with sink:
                while chunk := source.read(2**20):
                    with os_errors_as_input(target):
                        _write_all(sink, chunk)
                    if on_chunk is not None:
                        on_chunk(chunk)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        if self.is_local:
            with self._sentence("remove", name):
                (self.local / name).unlink(missing_ok=True)
            return
        system, path = self._open(name)
        with self._sentence("remove", name):
            if system.get_file_info(path).type == FileType.File:
                system.delete_file(path)

    def make(self, below: str = "") -> None:
        """Make the folder, if the storage has folders."""
        if self.is_local:
            make_folder(self.local / below)
            return
        system, path = self._open(below)
        if system.type_name not in PUT_IS_ATOMIC:
            with self._sentence("write", below):
                system.create_dir(path, recursive=True)

    def _open(self, name: str) -> tuple[Any, str]:
        system, root = _file_system(self.address)
        return system, f"{root.rstrip('/')}/{name}".rstrip("/") if name else root

    def _info(self, name: str) -> Any:
        return self._read(name, lambda system, path: system.get_file_info(path))

    def _read(self, name: str, act: Callable[[Any, str], Read]) -> Read:
        """Read with ``act`` (of a file system and a path in it); retry after pauses if local storage fails."""
        system, path = self._open(name)
        pauses = list(PAUSES_S) if self.is_local else []
        with self._sentence("read", name):
            while True:
                try:
                    return act(system, path)
                except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
                    raise
                except (OSError, pa.ArrowException):
                    if not pauses:
                        raise
                    time.sleep(pauses.pop(0))

    def _upload(self, source: Path, name: str) -> None:
        system, path = self._open(name)
        direct = system.type_name in PUT_IS_ATOMIC
        above, _, last = path.rpartition("/")
        target = path if direct else f"{above}/.{last}.{uuid.uuid4().hex}.tmp"
        with self._sentence("write", name), source.open("rb") as stream:
            if not direct:
                system.create_dir(above, recursive=True)
            with system.open_output_stream(target) as sink:
                shutil.copyfileobj(stream, sink, 8 * 2**20)
            if not direct:
                system.move(target, path)

    @contextmanager
    def _sentence(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, UnicodeError) as error:
            why = "a name there is not UTF-8; rename it." if isinstance(error, UnicodeError) else self._why(error)
            raise StorageError(f"Cannot {verb} {self.named(name) if name else self}: {why}") from None

    def _why(self, error: Exception) -> str:
        """Return the system's own message for an error of local storage, which pyarrow wraps; else its first line."""
        number = error.errno if self.is_local and isinstance(error, OSError) else None
        return first_line(error) if number is None else f"{os.strerror(number)}."


def read_file(path: Path) -> str | None:
    """Read a local UTF-8 file like ``Folder.read_text``, with its retries."""
    return Folder.at(path.parent).read_text(path.name)


def _in_utf8(path: str) -> str:
    """Return a path unchanged; InputError if pyarrow cannot open it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path} cannot be used: its name is not UTF-8; rename it.") from None
    return path


def _write_all(sink: FileIO, data: bytes) -> None:
    """Write all bytes: an unbuffered file may accept only a part at a time, such as just before the disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]


@lru_cache(maxsize=64)
def _file_system(address: str) -> tuple[Any, str]:
    """Return the pyarrow file system of an address and the path in it."""
    if not is_address(address):
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), address.rstrip("/") or "/"
    try:
        system, path = FileSystem.from_uri(as_uri(address))
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        raise InputError(f"{redact(address)} cannot be opened: {first_line(error)}") from None
    return system, path.rstrip("/") or path[:1]
