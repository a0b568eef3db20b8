"""Local and fetched uris, temporary copies, and the process that fetches.

``process`` starts this module with ``python -m``, separately from the decoding process: the memory of a file system's
client then does not count towards a video's, and a stalled connection is ended like any hang.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileType

from gare.common.addresses import advice_on, as_uri, open_address
from gare.common.locks import lock_if_free
from gare.common.storage import SCHEMES
from gare.config.prepare import LimitsConfig
from pipelines.decode.errors import DecodeError
from pipelines.decode.isolated.decode_worker import Result, cpu_within, serve
from pipelines.decode.isolated.messages import Copied, FetchRequest

FETCHED = SCHEMES

SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


def local_path(uri: str) -> Path | None:
    """Return the file of a path or a file:// uri; None for an address that is fetched.

    Raises DecodeError(unsupported_uri) for any other uri.
    """
    advice = advice_on(uri, "")
    if advice is not None:
        raise DecodeError("unsupported_uri", f"{uri} {advice}.")
    if "://" not in uri:
        return Path(uri)
    try:
        parts = urlsplit(as_uri(uri))
    except ValueError as error:
        raise DecodeError("unsupported_uri", f"Not an address: {error}.") from None
    scheme = parts.scheme.lower()
    if scheme in FETCHED:
        return None
    if scheme != "file":
        kinds = ", ".join(sorted(FETCHED))
        raise DecodeError("unsupported_uri", f"Addresses of {kinds} are fetched, and not {scheme or 'others'}.")
    if parts.netloc not in ("", "localhost"):
        raise DecodeError("unsupported_uri", f"file:// names a file of this machine, not of {parts.netloc}.")
    return Path(unquote(parts.path))


def suffix_of(uri: str) -> str:
    """Return the suffix of a uri's file, which FFmpeg may use to detect the format; empty if it is not a normal one."""
    suffix = Path(unquote(urlsplit(as_uri(uri)).path)).suffix
    return suffix if SUFFIX.fullmatch(suffix) else ""


PREFIX = "gare-fetched-"


@contextmanager
def scratch_file(suffix: str) -> Iterator[Path]:
    """Yield an empty file in the system's temporary folder (``TMPDIR``), removed at the end of the block.

    It is locked while in use: a killed process leaves it unlocked, and the next process that needs a scratch file
    removes it.
    """
    _remove_leftovers(tempfile.gettempdir())
    handle, path = _locked_file(suffix)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked_file(suffix: str) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=suffix)
        lock_if_free(handle)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process removed it as a leftover before it was locked


@cache
def _remove_leftovers(folder: str) -> None:
    """Remove unlocked scratch files, once per process."""
    for path in Path(folder).glob(f"{PREFIX}*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if lock_if_free(handle):
                    path.unlink()
            finally:
                os.close(handle)


CHUNK_BYTES = 2**20
SLOWEST_BYTES_PER_CPU_S = 10 * 2**20  # decryption and digest included

Resolve = Callable[[str], tuple[Any, str]]


def fetch(request: FetchRequest, resolve: Resolve = open_address) -> Result:
    """Copy a remote file to a local one and compute its digest. Raises DecodeError.

    ``resolve``: maps a uri to a pyarrow file system and the path in it.
    """
    limits = request.limits
    with cpu_within(limits.cpu_seconds + limits.max_bytes / SLOWEST_BYTES_PER_CPU_S):
        try:
            system, path = resolve(request.uri)
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise DecodeError("unsupported_uri", f"Cannot be used as an address: {_reason(error)}") from None
        except OSError as error:
            raise _unreachable(error) from None
        return copy(system, path, Path(request.path), limits), ()


def copy(system: Any, path: str, target: Path, limits: LimitsConfig) -> Copied:
    """Copy ``path`` of a pyarrow file system into the file ``target``, at most ``limits.max_bytes``."""
    try:
        info = system.get_file_info(path)
        stated = _stated_size(info, limits)
        source = system.open_input_stream(path, compression=None)
    except FileNotFoundError:
        raise DecodeError("missing", "There is no such remote file.") from None
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(error) from None
    try:
        with source:
            size, sha256 = _copy(source, target, limits)
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(error) from None
    if stated not in (None, size):
        raise DecodeError("unreachable", f"Of the {stated} bytes the remote file should have, {size} came.")
    if not size:
        raise DecodeError("empty_file", "The remote file has 0 bytes.")
    return Copied(bytes=size, sha256=sha256, mtime_ns=info.mtime_ns)


def _stated_size(info: Any, limits: LimitsConfig) -> int | None:
    """Return the stated size, or None. Raises DecodeError if there is no such file or it is too large."""
    if info.type == FileType.NotFound:
        raise DecodeError("missing", "There is no such remote file.")
    if info.type == FileType.Directory:
        raise DecodeError("not_a_file", "The address is a folder's.")
    size = info.size
    if size is not None and size > limits.max_bytes:
        raise DecodeError("too_large", f"{size} bytes, more than {limits.max_bytes}.")
    return None if size is None else int(size)


def _copy(source: Any, target: Path, limits: LimitsConfig) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with target.open("wb") as sink:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > limits.max_bytes:
                raise DecodeError("too_large", f"More than {limits.max_bytes} bytes, and less stated.")
            digest.update(chunk)
            sink.write(chunk)
    return size, digest.hexdigest()


def _unreachable(error: Exception) -> DecodeError:
    return DecodeError("unreachable", f"Could not be copied: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    serve(FetchRequest, fetch)
