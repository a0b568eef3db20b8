"""The process that decodes: ``python -m pipelines.decode.isolated.decode_worker``, started by ``process``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from gare.common.files import file_digest
from pipelines.decode import Clip, DecodeError
from pipelines.decode.backends import backend
from pipelines.decode.isolated.limits import cpu_within
from pipelines.decode.isolated.messages import DecodeRequest, header_of
from pipelines.decode.isolated.serving import Result, serve_many
from pipelines.decode.video import decode_clips

AHEAD = 3
"""Of many clips some are decoded in one go, and more than one way may be tried, each within its own time."""


def decode(request: DecodeRequest) -> Iterator[Result | DecodeError]:
    """Decode the clips of a video, one after the other, and digest its file when the first one is there."""
    path, facts = Path(request.path), None
    decoded = decode_clips(path, recipe=request.recipe, clips=[Clip(*bounds) for bounds in request.clips])
    for _ in request.clips:
        with cpu_within(request.limits.cpu_seconds * (AHEAD if len(request.clips) > 1 else 1)):
            video = next(decoded)
        if isinstance(video, DecodeError):
            yield video
            continue
        facts = facts or _facts(path, digest=request.digest)
        yield header_of(video, *facts), video.frames


def _facts(path: Path, *, digest: bool) -> tuple[int, str | None]:
    """Size and SHA-256 of a file. Raises DecodeError where it cannot be read to its end."""
    try:
        return path.stat().st_size, file_digest(path) if digest else None
    except OSError as error:
        raise DecodeError("unreachable", f"Reading it failed: {error.strerror or error}.") from None


if __name__ == "__main__":
    backend(sys.argv[3]).load()  # so that what it takes by itself is no part of a video's memory
    serve_many(DecodeRequest, decode)
