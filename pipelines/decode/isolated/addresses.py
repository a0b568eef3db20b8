"""Which uris are local files, which are fetched, and which are refused."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gare.common.addresses import advice_on, as_uri
from gare.common.storage import SCHEMES
from pipelines.decode.errors import DecodeError

FETCHED = SCHEMES

SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")


def local_path(uri: str) -> Path | None:
    """Find the file of a path or a file:// uri; None for an address that is fetched.

    Raises DecodeError(unsupported_uri) for any other.
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
    """Find the suffix of a uri's file, by which FFmpeg may tell the format; empty where it is none."""
    suffix = Path(unquote(urlsplit(as_uri(uri)).path)).suffix
    return suffix if SUFFIX.fullmatch(suffix) else ""
