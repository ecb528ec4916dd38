"""A server on loopback that speaks the protocol of S3."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs


@contextmanager
def s3_server() -> Iterator[None]:
    """Inside, a server with an empty bucket runs, and this process and its children find it by their environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "test")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            filesystem, bucket = fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
            filesystem.create_dir(bucket)
            yield
    finally:
        server.stop()
