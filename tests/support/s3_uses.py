"""Every use of an S3 store, the request of it that a fault can meet, and the faults that there are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.faults import Fault, Request
from support.s3_servers import Bucket
from support.s3_stores import MIB, PREFIX

from benchkit.store.s3 import S3Store

SMALL = random.Random(1).randbytes(5000)
LARGE = random.Random(2).randbytes(10 * MIB + 5000)  # three parts, or three ranges
OLD = random.Random(3).randbytes(len(LARGE) // 1000)


@dataclass(frozen=True)
class Use:
    """A use of a store that holds `small`, `large` and `new`: what it does, and in how many requests."""

    name: str
    request: str
    do: Callable[[S3Store, Path], object]
    result: object = None
    written: bytes = OLD
    requests: int = 1

    def check(self, result: object, bucket: Bucket) -> None:
        """See to it that the use has done what it should, and nothing else."""
        assert result == self.result
        check_objects(bucket, new=self.written, small=b"" if self.request == "DeleteObject" else SMALL)


def write_large(store: S3Store, large: Path) -> None:
    """Write a file in parts."""
    store.write("new", large)


READS = (
    Use("read", "GetObject", lambda store, _: store.read("small"), SMALL),
    Use("range", "GetObject", lambda store, _: store.read("small", start=100, length=2000), SMALL[100:2100]),
    Use("stream", "GetObject", lambda store, _: b"".join(store.stream("large")), LARGE, requests=3),
)
LISTINGS = (
    Use("list", "ListObjects", lambda store, _: [i.name for i in store.list()], ["large", "new", "small"]),
    Use("unfinished", "ListMultipartUploads", lambda store, _: list(store.unfinished()), []),
)
STAT = Use("stat", "HeadObject", lambda store, _: getattr(store.stat("small"), "size", None), len(SMALL))
WRITES = (
    Use("write", "PutObject", lambda store, _: store.write("new", SMALL), written=SMALL),
    Use("write-large", "UploadPart", write_large, written=LARGE, requests=5),
)
ENDS = (
    Use("begin-large", "CreateMultipartUpload", write_large, written=LARGE, requests=5),
    Use("end-large", "CompleteMultipartUpload", write_large, written=LARGE, requests=5),
)
DELETE = Use("delete", "DeleteObject", lambda store, _: store.delete("small"))
USES = (*READS, *LISTINGS, STAT, *WRITES, *ENDS, DELETE)

REFUSALS = {
    "429": Fault("request", "refuse", status=429, code="TooManyRequests"),
    "500": Fault("request", "refuse", status=500, code="InternalError"),
    "503": Fault("request", "refuse", status=503, code="ServiceUnavailable"),
    "slow-down": Fault("request", "refuse", status=503, code="SlowDown"),
}
CUTS = {
    "reset": Fault("request", "reset"),
    "answer-lost": Fault("answer", "close"),
    "answer-reset": Fault("answer", "reset"),
    "answer-500": Fault("answer", "refuse", status=500, code="InternalError"),
}
STALL = {"stall": Fault("request", "stall", seconds=30)}
IN_ANSWERS = {
    "download-reset": Fault("download", "reset", at=1000),
    "download-cut": Fault("download", "close", at=1000),
    "download-stall": Fault("download", "stall", at=1000, seconds=30),
    "download-trickle": Fault("download", "trickle", at=1000, rate=500),
}
IN_LISTINGS = {
    "download-none": Fault("download", "close"),
    "download-cut": Fault("download", "close", at=100),
    "download-reset": Fault("download", "reset", at=100),
}
IN_BODIES = {
    "upload-reset": Fault("upload", "reset", at=3000),
    "upload-cut": Fault("upload", "close", at=3000),
    "upload-stall": Fault("upload", "stall", at=3000, seconds=30),
    "upload-flip": Fault("upload", "flip", at=3000),
}
FINAL = {
    "denied": (Fault("request", "refuse", status=403, code="AccessDenied"), "ask the bucket's owner"),
    "unknown-key": (Fault("request", "refuse", status=403, code="InvalidAccessKeyId"), "bench-kit configure"),
    "wrong-secret": (
        Fault("request", "refuse", status=403, code="SignatureDoesNotMatch"),
        "bench-kit configure",
    ),
    "expired": (Fault("request", "refuse", status=400, code="ExpiredToken"), "expired.*bench-kit configure"),
}


def key(name: str) -> str:
    """Return the key of an object of the store."""
    return f"{PREFIX}/{name}"


def fill(bucket: Bucket, *names: str) -> None:
    """Put the objects that the uses expect, and take away what earlier ones have left."""
    for name, data in (("small", SMALL), ("large", LARGE), ("new", OLD)):
        if name in names:
            bucket.client.put_object(Bucket=bucket.name, Key=key(name), Body=data)
    for begun, upload in bucket.uploads():
        bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=begun, UploadId=upload)


def check_objects(bucket: Bucket, *, new: bytes, small: bytes = SMALL) -> None:
    """See to it that the bucket holds these objects, and no others; an empty one is none."""
    expected = {"large": LARGE, "new": new, "small": small}
    assert bucket.objects() == {key(name): data for name, data in expected.items() if data}


def is_first(request: Request) -> bool:
    """Return whether a request is not for a later part of an object."""
    start = (request.range or "bytes=0-")[len("bytes=") :].partition("-")[0]
    return request.query.get("partNumber", "1") == "1" and int(start) < MIB
