"""A fetching process for tests: every address names a file below the folder ``GARE_TEST_BUCKET``."""

from __future__ import annotations

import os
import time
from urllib.parse import unquote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from pipelines.decode.isolated import fetching
from pipelines.decode.isolated.decode_worker import serve
from pipelines.decode.isolated.messages import FetchRequest


def resolve(uri: str) -> tuple[FileSystem, str]:
    parts = urlsplit(uri)
    if parts.netloc == "stalled":
        time.sleep(600)
    return SubTreeFileSystem(os.environ["GARE_TEST_BUCKET"], LocalFileSystem()), unquote(parts.path).lstrip("/")


def fetch(request: FetchRequest) -> fetching.Result:
    return fetching.fetch(request, resolve)


if __name__ == "__main__":
    serve(FetchRequest, fetch)
