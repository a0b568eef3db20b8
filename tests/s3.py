"""A local server that speaks S3, for tests of remote storage."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from pyarrow.fs import FileSystem


@contextmanager
def s3_bucket(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield a pattern of addresses in an empty bucket: ``.format("path")``."""
    from moto.server import ThreadedMotoServer

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        query = f"?region=us-east-1&endpoint_override={quote(f'http://{host}:{port}', safe='')}"
        name = f"bucket-{uuid.uuid4().hex}"  # the servers of one process share what they hold
        system, _ = FileSystem.from_uri(f"s3://{name}/{query}&allow_bucket_creation=true")
        system.create_dir(name)
        yield f"s3://{name}/{{}}{query}"
    finally:
        server.stop()
