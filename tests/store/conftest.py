"""What tests of the S3 store share: a bucket of each server, and a store in it."""

from __future__ import annotations

import pytest
from support.s3_servers import Bucket
from support.s3_stores import MIB, open_bucket

from benchkit.store.s3 import S3Store


@pytest.fixture(params=["swift", "moto"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """Return a new bucket of each server in turn."""
    found: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return found


@pytest.fixture
def store(bucket: Bucket) -> S3Store:
    """Return a store in a new bucket of each server in turn."""
    return open_bucket(bucket)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in parts that are small beside the objects of the tests."""
    monkeypatch.setattr("benchkit.store.s3_read.PART_BYTES", 4 * MIB)
