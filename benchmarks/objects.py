"""The object store that is measured: an S3 server of this machine, and proxies that make it answer later."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from latency import LatencyProxy

SUPPORT = Path(__file__).resolve().parent.parent / "tests"
_AT_ONCE = 4


class Objects:
    """A bucket, reached without delay or with so many milliseconds before each request."""

    def __init__(self, bucket: Any, endpoints: dict[int, str]) -> None:
        self._bucket = bucket
        self.endpoints = endpoints

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files below a prefix, and return its URL."""
        files = [path for path in folder.rglob("*") if path.is_file()]

        def send(path: Path) -> None:
            key = f"{prefix}/{path.relative_to(folder).as_posix()}"
            self._bucket.client.upload_file(str(path), self._bucket.name, key)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(send, files))
        return f"s3://{self._bucket.name}/{prefix}"


@contextlib.contextmanager
def serve_objects(latencies_ms: set[int], *, endpoint: str = "", bucket: str = "") -> Iterator[Objects]:
    """Give a bucket at an endpoint for each latency.

    Args:
        latencies_ms: What is added to each request.
        endpoint: A server that runs already; empty starts one, and sets the credentials in the environment.
        bucket: A bucket of that server, to which the credentials in the environment give access.

    Raises:
        ServerMissingError: No S3 server can be had here; the message says why.
    """
    if str(SUPPORT) not in sys.path:
        sys.path.append(str(SUPPORT))
    from support.s3_servers import (  # noqa: PLC0415  # the path to it is made here
        ENVIRONMENT,
        Bucket,
        Server,
        make_bucket,
        serve_swift,
    )

    with contextlib.ExitStack() as stack:
        if endpoint:
            keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
            server = Server(endpoint=endpoint, pid=0, access_key=keys[0], secret_key=keys[1])
            place = Bucket(name=bucket, server=server, client=server.client())
        else:
            os.environ.update(ENVIRONMENT)
            server = stack.enter_context(serve_swift())
            place = make_bucket(server)
        endpoints = {0: server.endpoint}
        for latency in latencies_ms - {0}:
            endpoints[latency] = stack.enter_context(LatencyProxy(server.endpoint, latency / 1000)).url
        yield Objects(place, endpoints)
