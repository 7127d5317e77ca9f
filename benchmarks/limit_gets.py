"""The limit of a server: every object of a packed dataset fetched whole, several at once, none delivered.

`kept gets` writes each into a file, as every loader with a cache has to.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from cases import Case, Place

_AT_ONCE = 8


def measure(case: Case, place: Place) -> dict[str, float]:
    """Return the samples per second that come with the objects."""
    client = boto3.client("s3", endpoint_url=place.endpoint, config=Config(max_pool_connections=_AT_ONCE))
    bucket, _, prefix = place.remote.removeprefix("s3://").partition("/")
    started = time.perf_counter()
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]

    def get(number: int) -> None:
        key = found[number]["Key"]
        with open(place.scratch / str(number) if case.side == "kept gets" else os.devnull, "wb") as file:
            file.writelines(client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(get, range(len(found))))
    return {"first_rate": case.count / (time.perf_counter() - started)}
