"""S3-compatible object storage as a store: a bucket, or what begins with a prefix in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchkit.errors import StoreError, UsageError
from benchkit.format.layout import is_object_name
from benchkit.settings import S3Settings
from benchkit.store.base import ObjectInfo, Unfinished, check_name
from benchkit.store.s3_client import S3Client
from benchkit.store.s3_errors import MISSING_KEY, MISSING_UPLOAD, Place
from benchkit.store.s3_read import read_object, stream_object
from benchkit.store.s3_write import write_object

PART_BYTES = 16 << 20
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


@dataclass(frozen=True)
class S3Store:
    """A bucket as a store; see `benchkit.store.base.Store` for what its methods promise.

    It holds no secret and, until its first use in a process, no connection: it can be pickled and forked.

    Attributes:
        bucket: The bucket's name.
        prefix: What all keys begin with, without slashes around it; may be empty.
        settings: How the service is spoken to.
        part_bytes: The parts in which an object of more than two of them is uploaded; services want 5 MiB or
            more.
    """

    bucket: str
    prefix: str
    settings: S3Settings = field(default_factory=S3Settings)
    part_bytes: int = PART_BYTES
    _clients: dict[int, S3Client] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise UsageError(
                "an s3:// URL begins with the name of a bucket, 3 to 63 letters, digits, dots, hyphens and "
                "underscores: write s3://bucket/prefix"
            )
        if self.prefix and (not is_object_name(self.prefix) or set(self.prefix) & set("?#")):
            raise UsageError(
                f"{self.prefix!r} is no prefix of a store: write s3://bucket/prefix, the prefix being "
                "components of printable characters other than ? and #, joined by single slashes"
            )

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str, S3Settings, int]]:
        """Leave the connections behind."""
        return S3Store, (self.bucket, self.prefix, self.settings, self.part_bytes)

    @classmethod
    def of(cls, url: str, settings: S3Settings | None = None) -> S3Store:
        """Return the store at `s3://bucket/prefix`.

        Raises:
            UsageError: The URL is none of a store.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return cls(bucket, prefix.removesuffix("/"), settings or S3Settings())

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        return f"s3://{self.bucket}/{self.prefix}".removesuffix("/")

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object."""
        return read_object(self._client, self._place(name), start, length)

    def stream(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a range of the object in blocks, parts of it being fetched ahead."""
        yield from stream_object(self._client, self._place(name), start, length)

    def write(self, name: str, source: bytes | Path) -> None:
        """Store the object; a large one in parts."""
        write_object(self._client, self._place(name), source, self.part_bytes)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's size and time, in whole seconds."""
        client, place = self._client, self._place(name)
        answer = client.call("head_object", place, expected=MISSING_KEY)
        if answer is None and not client.bucket_seen:
            # The answer to HEAD has no body to say that it is the bucket that is missing.
            client.call("head_bucket", Place(bucket=self.bucket, url=self.url), expected=("403",))
        client.bucket_seen = True
        if answer is None:
            return None
        modified = _seconds(answer["LastModified"])
        return ObjectInfo(name=name, size=answer["ContentLength"], modified=modified)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects in order of name."""
        parameters = {"Prefix": self._base + prefix}
        while True:
            page = self._client.call("list_objects_v2", self._whole, **parameters) or {}
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(self._base)
                if is_object_name(name):
                    modified = _seconds(entry["LastModified"])
                    yield ObjectInfo(name=name, size=entry["Size"], modified=modified)
            if not page.get("IsTruncated"):
                return
            parameters["ContinuationToken"] = self._next(page, "NextContinuationToken")

    def delete(self, name: str) -> None:
        """Remove the object."""
        self._client.call("delete_object", self._place(name), expected=MISSING_KEY)

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield the multipart uploads that were not completed nor aborted; their writers may be at work."""
        parameters = {"Prefix": self._base}
        while True:
            page = self._client.call("list_multipart_uploads", self._whole, **parameters) or {}
            for entry in page.get("Uploads", ()):
                name = entry["Key"].removeprefix(self._base)
                if is_object_name(name):
                    begun = _seconds(entry["Initiated"])
                    yield Unfinished(key=entry["UploadId"], name=name, size=0, modified=begun)
            if not page.get("IsTruncated"):
                return
            parameters["KeyMarker"] = self._next(page, "NextKeyMarker")
            parameters["UploadIdMarker"] = self._next(page, "NextUploadIdMarker")

    def discard(self, unfinished: Unfinished) -> None:
        """Abort a multipart upload."""
        place = self._place(unfinished.name)
        expected = MISSING_UPLOAD | MISSING_KEY
        self._client.call("abort_multipart_upload", place, expected=expected, UploadId=unfinished.key)

    def _next(self, page: Mapping[str, Any], name: str) -> str:
        """Return where the next page of a listing begins."""
        if not page.get(name):
            raise StoreError(f"{self.url} cannot be listed: the service says there is more, and not where")
        return str(page[name])

    @property
    def _client(self) -> S3Client:
        """The client of this process: one that was made before a fork is its parent's."""
        return self._clients.setdefault(os.getpid(), S3Client(self.settings))

    @property
    def _base(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def _whole(self) -> Place:
        return Place(bucket=self.bucket, url=self.url)

    def _place(self, name: str) -> Place:
        return Place(bucket=self.bucket, url=self.url, key=self._base + check_name(name), name=name)


def _seconds(moment: datetime | Any) -> float:
    """Return a time in whole seconds since 1970: HEAD tells no fractions, a listing does."""
    return float(int(moment.timestamp()))
