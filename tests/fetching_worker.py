"""A fetching process for tests: every address names a file below the folder ``GARE_TEST_BUCKET``."""

from __future__ import annotations

import os
import time
from urllib.parse import unquote, urlsplit

from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from pipelines.decode.isolated import fetch_worker
from pipelines.decode.isolated.messages import FetchRequest
from pipelines.decode.isolated.serving import serve


def resolve(uri: str) -> tuple[FileSystem, str]:
    parts = urlsplit(uri)
    if parts.netloc == "stalled":
        time.sleep(600)
    return SubTreeFileSystem(os.environ["GARE_TEST_BUCKET"], LocalFileSystem()), unquote(parts.path).lstrip("/")


def fetch(request: FetchRequest) -> fetch_worker.Result:
    return fetch_worker.fetch(request, resolve)


if __name__ == "__main__":
    serve(FetchRequest, fetch)
