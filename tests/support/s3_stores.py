"""S3 stores for tests: in a server's bucket, with parts small enough that 11 MiB are a large object."""

from __future__ import annotations

from typing import Any

from support.s3_servers import Bucket

from benchkit.settings import S3Settings
from benchkit.store.s3 import S3Store

MIB = 1 << 20
PREFIX = "some/prefix"


def open_bucket(bucket: Bucket, *, endpoint: str | None = None, **options: Any) -> S3Store:
    """Return a store in a bucket, reached at its server or at another endpoint, as that of a proxy."""
    settings = S3Settings(endpoint_url=endpoint or bucket.server.endpoint, **options)
    return S3Store(bucket.name, PREFIX, settings, part_bytes=5 * MIB)


def watch(store: S3Store) -> list[Any]:
    """Return a list to which every request of the store in this process will be added as it is sent."""
    requests: list[Any] = []
    client = store._client._connected(instead_of=None)
    client.meta.events.register("before-send.s3", lambda request, **_: requests.append(request))
    return requests
