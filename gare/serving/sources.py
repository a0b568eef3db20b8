"""Find the file of a video for a browser: what browsers can play, on this machine or on storage, in ranges."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from starlette.responses import FileResponse, Response, StreamingResponse

from gare.common.addresses import as_uri, open_address
from gare.common.errors import InputError
from gare.common.redact import first_line
from gare.common.storage import SCHEMES, is_address

KINDS = {"mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/mp4", "webm": "video/webm"}
"""Suffixes of the containers that browsers play, and the type that they are told."""

CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "libdav1d", "libaom-av1", "libvpx", "libvpx-vp9"})
"""Names that decoders give to the codecs that browsers play, some of them on some machines only."""

MP4_STARTS, WEBM_START = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}, b"\x1a\x45\xdf\xa3"
"""The type of a file's first box; the number of EBML, which WebM is."""

CHUNK = 2**18


@dataclass(frozen=True)
class Source:
    """A file that browsers can play: a local path, or an address on storage."""

    kind: str
    path: Path | None
    address: str = ""

    def response(self, wanted: str | None) -> Response:
        """Return the file or the range ``wanted`` (a Range header). Raises InputError if it cannot be read."""
        headers = {"cache-control": "private, no-cache"}
        if self.path is None:
            return _from_storage(self.address, self.kind, wanted, headers)
        try:
            found = self.path.stat()
        except (OSError, ValueError):
            raise InputError("The file is gone.") from None
        if not stat.S_ISREG(found.st_mode):
            raise InputError("The file is not a regular file.")
        with self.path.open("rb") as file:
            start = file.read(8)
        if start[4:] not in MP4_STARTS and start[:4] != WEBM_START:
            raise InputError("The file is not a video that browsers play.")  # a link can name any file .mp4
        return FileResponse(self.path, headers=headers, media_type=self.kind, stat_result=found)


def find_source(uri: str, codec: str) -> Source:
    """Return a video's source. Raises InputError, whose message says why a browser cannot play it.

    ``codec``: the name of its codec; empty if unknown.
    """
    path = Path(uri) if not is_address(uri) else None
    if path is None:
        try:
            parts = urlsplit(as_uri(uri))
        except ValueError:
            raise InputError("Its address cannot be read.") from None
        if parts.scheme == "file":
            path = Path(unquote(parts.path))
        elif parts.scheme not in SCHEMES:
            raise InputError(f"Files at {parts.scheme} addresses are not served.")
    suffix = Path(uri.partition("?")[0] if path is None else path.name).suffix.lower().lstrip(".")
    if suffix not in KINDS:
        raise InputError(f"Browsers do not play {suffix or 'such'} files.")
    if codec and codec not in CODECS:
        raise InputError(f"Browsers do not play {codec}.")
    if path is not None:
        try:
            if not path.is_file():
                raise InputError("The file is gone.")
        except (OSError, ValueError):
            raise InputError("The file cannot be read.") from None
    return Source(KINDS[suffix], path, "" if path is not None else uri)


def _from_storage(address: str, kind: str, wanted: str | None, headers: dict[str, str]) -> Response:
    try:
        system, name = open_address(address, keep=True)
        changed = system.get_file_info(name).mtime
        stream = system.open_input_file(name)
        size = int(stream.size())
    except (OSError, ValueError, TypeError, NotImplementedError, pa.ArrowException) as error:
        raise InputError(f"The file cannot be read: {first_line(error)}.") from None
    headers["accept-ranges"] = "bytes"
    if changed is not None:
        headers["last-modified"] = formatdate(changed.timestamp(), usegmt=True)
    part = range(size) if wanted is None else parse_range(wanted, size)
    if part is None:
        stream.close()
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers["content-length"] = str(len(part))
    if wanted is not None and len(part) != size:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    status = 206 if "content-range" in headers else 200
    return StreamingResponse(_chunks(stream, part), status, headers, kind)


def parse_range(header: str, size: int) -> range | None:
    """Return the bytes that a Range header asks for: all for one of another form, None if there are none such."""
    found = re.fullmatch(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", header.strip(), re.ASCII)
    if found is None:
        return range(size)
    first, last, final = found.groups()
    if final is not None:
        part = range(max(0, size - int(final)), size)
    else:
        part = range(int(first), min(size, int(last) + 1) if last else size)
    return part or None


def _chunks(stream: pa.NativeFile, part: range) -> Iterator[bytes]:
    with stream:
        for start in range(part.start, part.stop, CHUNK):
            yield stream.read_at(min(CHUNK, part.stop - start), start)
