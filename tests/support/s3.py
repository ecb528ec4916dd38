"""A server on loopback that speaks the protocol of S3."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer
from pyarrow import fs

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
"""What clients need in their environment."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Inside, a server with an empty bucket runs; yields the query of its addresses, as in s3://bucket/runs?<query>."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        query = f"scheme=http&endpoint_override={host}:{port}"
        filesystem, bucket = fs.FileSystem.from_uri(f"s3://bucket?{query}&allow_bucket_creation=true")
        filesystem.create_dir(bucket)
        yield query
    finally:
        server.stop()
