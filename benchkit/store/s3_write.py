"""Writing an object to an S3 store: one request, or a multipart upload for what is large."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.errors import StoreError
from benchkit.store.retry import Tries, attempt
from benchkit.store.s3_client import S3Client
from benchkit.store.s3_errors import MISSING_KEY, MISSING_UPLOAD, Place

PARTS_AT_ONCE = 4
MOST_PARTS = 10_000
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be written: bytes, or an open file; read from any place without moving a shared position."""

    data: bytes | int
    size: int

    def read(self, start: int, length: int) -> bytes:
        """Return up to so many bytes from there."""
        if isinstance(self.data, bytes):
            return self.data[start : start + length]
        return os.pread(self.data, length, start)


class PartBody:
    """A part of a source as a file that boto3 can send, and send again; it is never whole in memory.

    As a file, not as bytes: those go out in one call, which would have to end within the socket's time-out.
    """

    def __init__(self, source: Source, start: int, length: int, stop: threading.Event) -> None:
        self._source = source
        self._start = start
        self._length = length
        self._stop = stop
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def read(self, size: int | None = -1) -> bytes:
        """Return up to so many bytes (all that are left) from the current position."""
        if self._stop.is_set():
            raise StoreError("the upload was ended")
        left = max(self._length - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        block = self._source.read(self._start + self._position, wanted)
        if wanted and not block:
            raise StoreError("the file became shorter while it was sent: write it again")
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the current position."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = begin + offset
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position


def write_object(client: S3Client, place: Place, source: bytes | Path, part_bytes: int) -> None:
    """Store bytes, or a file's contents: by multipart upload if they are more than two parts.

    Raises:
        StoreError: The file cannot be read, or the service failed; nothing is stored then.
    """
    with _opened(source, place) as opened:
        if opened.size <= 2 * part_bytes:
            _Upload(client, place, opened).put()
        else:
            _Upload(client, place, opened).put_parts(plan_parts(opened.size, part_bytes))


def plan_parts(size: int, part_bytes: int) -> list[range]:
    """Return the parts of an upload as ranges of bytes, larger than asked for where they were too many."""
    length = max(part_bytes, -(-size // MOST_PARTS))
    return [range(start, min(start + length, size)) for start in range(0, size, length)]


def whole_etag(parts: list[dict[str, Any]]) -> str | None:
    """Return the tag of an object of these parts: the digest of their tags, where those are digests."""
    try:
        tags = bytes.fromhex("".join(part["ETag"].strip('"') for part in parts))
    except ValueError:
        return None
    return f'"{hashlib.md5(tags, usedforsecurity=False).hexdigest()}-{len(parts)}"'


class _Upload:
    """One upload of one object."""

    def __init__(self, client: S3Client, place: Place, source: Source) -> None:
        self._client = client
        self._place = place
        self._source = source
        self._stop = threading.Event()
        settings = client.settings
        self._plain = settings.checksums == "when_required"
        encryption = {
            "ServerSideEncryption": settings.server_side_encryption,
            "SSEKMSKeyId": settings.kms_key_id,
        }
        self._encryption = {name: value for name, value in encryption.items() if value}

    def put(self) -> None:
        """Write the object in one request."""
        self._send("put_object", range(self._source.size), **self._encryption)

    def put_parts(self, parts: list[range]) -> None:
        """Write the object in parts, a few at once; what was begun and cannot be ended is aborted."""
        checksum = {} if self._plain else {"ChecksumAlgorithm": "CRC32"}
        begun = self._client.call("create_multipart_upload", self._place, **checksum, **self._encryption)
        upload = {"UploadId": (begun or {})["UploadId"]}
        try:
            self._complete(upload, self._send_parts(upload, parts))
        except BaseException:
            with suppress(StoreError):
                self._client.call_once("abort_multipart_upload", self._place, **upload)
            raise

    def _send_parts(self, upload: dict[str, str], parts: list[range]) -> list[dict[str, Any]]:
        """Send all parts and return what completing the upload takes; no thread is left at the end."""

        def send(number: int, part: range) -> dict[str, Any]:
            answer = self._send("upload_part", part, PartNumber=number, **upload)
            told = {key: value for key, value in answer.items() if key in ("ETag", "ChecksumCRC32")}
            return {"PartNumber": number, **told}

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="benchkit-s3-write") as pool:
            sent = [pool.submit(send, number, part) for number, part in enumerate(parts, 1)]
            try:
                for future in wait(sent, return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in sent]

    def _send(self, operation: str, part: range, **parameters: Any) -> dict[str, Any]:
        """Send a part of the source, again where it fails on the way."""
        if self._plain:
            parameters["ContentMD5"] = self._md5(part)

        def send() -> dict[str, Any]:
            body = PartBody(self._source, part.start, len(part), self._stop)
            return self._client.call_once(operation, self._place, Body=body, **parameters) or {}

        return attempt(send, Tries(self._client.settings.attempts, sleep=self._stop.wait))

    def _complete(self, upload: dict[str, str], parts: list[dict[str, Any]]) -> None:
        tries = Tries(self._client.settings.attempts)

        def complete() -> None:
            # An upload that is gone after a failure may have been completed: an answer was lost.
            answer = self._client.call_once(
                "complete_multipart_upload",
                self._place,
                expected=MISSING_UPLOAD if tries.failures else (),
                MultipartUpload={"Parts": parts},
                **upload,
            )
            if answer is None:
                there = self._client.call("head_object", self._place, expected=MISSING_KEY)
                if there is None or there["ETag"] != whole_etag(parts):
                    raise StoreError(f"{self._place} was not written: its upload is gone; write it again")

        attempt(complete, tries)

    def _md5(self, part: range) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        body = PartBody(self._source, part.start, len(part), self._stop)
        while block := body.read(_BLOCK_BYTES):
            digest.update(block)
        return base64.b64encode(digest.digest()).decode("ascii")


@contextmanager
def _opened(source: bytes | Path, place: Place) -> Iterator[Source]:
    if isinstance(source, bytes):
        yield Source(source, len(source))
        return
    try:
        fd = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{place} was not written: {source} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{place} was not written: {source} is no file")
        yield Source(fd, status.st_size)
    finally:
        os.close(fd)
