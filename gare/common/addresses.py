"""Read file names as people write them: paths, URIs, keys as ``aws s3 ls`` prints them; and SQLite's addresses."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from gare.common.errors import InputError
from gare.common.redact import redact

_LEGAL: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_OPTIONS: Final = re.compile(r"\?[A-Za-z_]+=[^&?#\s]*(?:&[A-Za-z_]+=[^&?#\s]*)*\Z")
_DRIVE: Final = re.compile(r"(?:file:/+)?[A-Za-z]:[\\/]|\\\\", re.IGNORECASE)
_HOME: Final = re.compile(r"~[^/]*/")
_AS_PATH: Final = re.compile(r"(?:https?|file|s3a?|gs|gcs|abfss?|hdfs|viewfs):/+(?=[^/])", re.IGNORECASE)


def refuse_address(name: str, path: str | Path) -> None:
    """Refuse an address where only a path works, which would become a folder named ``s3:``; InputError."""
    found = _AS_PATH.match(str(path))
    if found:
        scheme = str(path).partition(":")[0]
        address = f"{scheme}:{'///' if scheme.lower() == 'file' else '//'}{str(path)[found.end() :]}"
        raise InputError(f"{name} is {redact(address)}; it has to be a path on this machine, not an address.")


def as_uri(address: str) -> str:
    """Return an address as a valid URI, which is what pyarrow reads.

    A valid address stays unchanged. In any other, every character is literal, percent signs too, except for the options
    at its end (``?region=eu-west-1``), which a file:// address does not have.
    """
    scheme, place, key, options = _parts(address)
    return address if _LEGAL.fullmatch(key) else f"{scheme}://{place}/{quote(key, safe='/')}{options}"


def without_options(address: str) -> tuple[str, str]:
    """Return an address as a valid URI, and its options: empty, or with their question mark."""
    uri = as_uri(address)
    options = _parts(uri)[3]
    return uri.removesuffix(options), options


def open_address(address: str, *, keep: bool = False) -> tuple[Any, str]:
    """Return the pyarrow file system of an address and the path in it; raises what ``FileSystem.from_uri`` does.

    ``a%20b`` is the name ``a b``, as in any URI; if there is no such file, the name is taken literally. ``keep``: reuse
    the file system of this place, because a new client costs seconds.
    """
    from pyarrow.fs import FileSystem, FileType

    key = _parts(address)[2]
    system, path = (
        _in_place(address) if keep and not address.startswith("file:") else FileSystem.from_uri(as_uri(address))
    )
    literal = f"{path.removesuffix(unquote(key))}{key}"
    if literal != path and path.endswith(unquote(key)):
        kinds = [info.type for info in system.get_file_info([path, literal])]
        path = literal if kinds[0] == FileType.NotFound != kinds[1] else path
    return system, path


def _in_place(address: str) -> tuple[Any, str]:
    bare, options = without_options(address)
    scheme, _, rest = bare.partition("://")
    root, _, key = rest.partition("/")
    system, top = _kept(f"{scheme}://{root}/{options}")
    below = unquote(key)
    return system, f"/{below}" if scheme in ("hdfs", "viewfs") else f"{top.rstrip('/')}/{below}".lstrip("/")


@lru_cache(maxsize=16)
def _kept(place: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(place)
    return system, path


def is_foreign(uri: str, root: str | Path) -> bool:
    """Return whether a path only means something to a shell or Windows: no such file is below ``root``."""
    return bool(_DRIVE.match(uri) or _HOME.match(uri)) and not _is_there(uri, root)


def advice_on(uri: str, root: str | Path) -> str | None:
    """Return advice on a path that cannot be right here, as the rest of a sentence; None for all others.

    ``root``: the folder of relative paths. A name that exists there is accepted.
    """
    if is_foreign(uri, root):
        home = _HOME.match(uri)
        if home:
            return f"begins with {home[0]}, a home folder that only a shell looks up; write the whole path"
        return "is a path of Windows; give the path that the file has here"
    if "\\" in uri and not _is_there(uri, root) and _is_there(uri.replace("\\", "/"), root):
        return "is written with backslashes; write / between folders"
    return None


def _is_there(path: str, root: str | Path) -> bool:
    return os.path.lexists(os.path.join(root, path))  # noqa: PTH118


def _parts(address: str) -> tuple[str, str, str, str]:
    """Return scheme, bucket or host, key, and options with their question mark."""
    scheme, _, rest = address.partition("://")
    options = None if scheme.lower() == "file" else _OPTIONS.search(rest)
    bare = rest[: options.start()] if options else rest
    place, _, key = bare.partition("/")
    return scheme, place, key, options[0] if options else ""


SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """Return the address of a SQLite file.

    Question marks, which start an address's options, and percent signs, which start a code, are encoded.
    """
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """Return the path in a SQLite address, possibly relative to the working directory; None for other addresses.

    Raises InputError for a SQLite address that names no file.
    """
    if not uri.startswith("sqlite:"):
        return None
    name, _, _ = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or name in ("", ":memory:"):
        raise InputError(f"{uri} names no file; write {SQLITE}FOLDER/mlflow.db, with a fourth slash for a full path.")
    return Path(unquote(name))


def at_full_path(uri: str, folder: Path | None = None) -> str:
    """Return a SQLite address with its path made absolute, from ``folder`` or the working directory."""
    path = sqlite_path(uri)
    if path is None:
        return uri
    _, mark, options = uri.partition("?")
    return sqlite_uri(((folder or Path()) / path).resolve()) + mark + options
