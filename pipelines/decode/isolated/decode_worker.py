"""The process that decodes: ``python -m pipelines.decode.isolated.decode_worker``, started by ``process``."""

from __future__ import annotations

from pathlib import Path

from gare.common.files import file_digest
from pipelines.decode.isolated.limits import cpu_within
from pipelines.decode.isolated.messages import DecodeRequest, header_of
from pipelines.decode.isolated.serving import Result, serve
from pipelines.decode.video import decode_video


def decode(request: DecodeRequest) -> Result:
    """Decode a video and digest its file."""
    path = Path(request.path)
    with cpu_within(request.limits.cpu_seconds):
        video = decode_video(path, recipe=request.recipe, start_s=request.start_s, end_s=request.end_s)
    return header_of(video, path, file_digest(path) if request.digest else None), video.frames


if __name__ == "__main__":
    serve(DecodeRequest, decode)
