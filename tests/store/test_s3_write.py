"""Writing to S3: whole or not at all, in parts where it is large, with checksums, encrypted as asked for."""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import Bucket
from support.s3_stores import MIB, PREFIX, open_bucket, watch

from benchkit.errors import StoreError
from benchkit.store.s3 import S3Store
from benchkit.store.s3_write import MOST_PARTS, plan_parts

LARGE = random.Random(9).randbytes(23 * MIB + 3)


def test_a_file_without_a_name_is_written_from_its_start(store: S3Store) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        file.flush()
        file.seek(99)
        store.write("large", Path(f"/dev/fd/{file.fileno()}"))
        assert file.tell() == 99
    assert store.read("large") == LARGE


def test_a_part_that_fails_for_good_ends_the_upload_and_what_was_begun_of_it(swift_bucket: Bucket) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        store = open_bucket(swift_bucket, endpoint=proxy.url)
        denied = Fault("request", "refuse", status=403, code="AccessDenied")
        proxy.inject(denied, operation="UploadPart", skip=2)
        with pytest.raises(
            StoreError, match=r"large in s3://.* cannot be written: access is denied.*PutObject"
        ):
            store.write("large", LARGE)
        assert proxy.count("AbortMultipartUpload") == 1
        assert proxy.count("CompleteMultipartUpload") == 0
    assert swift_bucket.uploads() == []
    assert swift_bucket.objects() == {}


def test_when_a_part_fails_for_good_the_others_are_not_tried_on(swift_bucket: Bucket) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        store = open_bucket(swift_bucket, endpoint=proxy.url, attempts=100)
        denied = Fault("request", "refuse", status=403, code="AccessDenied")
        busy = Fault("request", "refuse", status=503, code="SlowDown")
        proxy.inject(denied, where=lambda request: request.query.get("partNumber") == "1", skip=3)
        proxy.inject(busy, operation="UploadPart", times=math.inf)
        start = time.monotonic()
        with pytest.raises(StoreError, match="access is denied"):
            store.write("large", LARGE)
        assert time.monotonic() - start < 10
        assert proxy.requests[-1].operation == "AbortMultipartUpload"
    assert swift_bucket.uploads() == []


def test_a_multipart_upload_is_completed_with_the_checksums_that_the_service_told(
    moto_bucket: Bucket,
) -> None:
    store = open_bucket(moto_bucket)
    requests = watch(store)
    store.write("large", LARGE)
    assert requests[-1].body.count(b"<ChecksumCRC32>") == 5


def test_a_file_that_becomes_shorter_while_it_is_sent_is_an_error_at_once(
    swift_bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(LARGE[: 9 * MIB])
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        store = open_bucket(swift_bucket, endpoint=proxy.url)
        shorten = Fault("request", "call", call=lambda _: os.truncate(tmp_path / "file", MIB))
        proxy.inject(shorten, operation="PutObject")
        with pytest.raises(StoreError, match="became shorter"):
            store.write("a", tmp_path / "file")
        assert proxy.count("PutObject") == 1
    assert swift_bucket.objects() == {}


def test_only_a_file_is_written(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no file"):
        store.write("a", tmp_path)
    assert list(store.list()) == []


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_the_service_is_given_a_checksum_of_all_that_is_sent(bucket: Bucket, checksums: Any) -> None:
    store = open_bucket(bucket, checksums=checksums)
    requests = watch(store)
    store.write("small", b"data")
    store.write("large", LARGE)
    assert store.read("large") == LARGE
    bodies = [request for request in requests if request.method == "PUT"]
    assert len(bodies) == 6
    name = "Content-MD5" if checksums == "when_required" else "x-amz-checksum-crc32"
    assert all(name in request.headers for request in bodies)
    assert all(b"benchkit" in request.headers["User-Agent"] for request in requests)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, (None, None)),
        ({"server_side_encryption": "AES256"}, ("AES256", None)),
        ({"server_side_encryption": "aws:kms", "kms_key_id": "a-key"}, ("aws:kms", "a-key")),
    ],
)
def test_server_side_encryption_is_asked_for(
    moto_bucket: Bucket, options: dict[str, str], told: tuple[str | None, str | None]
) -> None:
    store = open_bucket(moto_bucket, **options)
    store.write("small", b"data")
    store.write("large", LARGE)
    for name in ("small", "large"):
        head = moto_bucket.client.head_object(Bucket=moto_bucket.name, Key=f"{PREFIX}/{name}")
        assert (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")) == told


@pytest.mark.parametrize("size", [1, 10, 5 * MIB, 23 * MIB + 3, 16 * MIB * MOST_PARTS + 1, 5 << 40])
def test_parts_are_the_whole_in_order_and_no_more_than_a_service_takes(size: int) -> None:
    parts = plan_parts(size, 16 * MIB)
    assert len(parts) <= MOST_PARTS
    assert parts[0].start == 0
    assert parts[-1].stop == size
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert len({len(part) for part in parts[:-1]}) <= 1
    assert all(len(part) >= 16 * MIB for part in parts[:-1])
