"""Reading an object of an S3 store: ranged requests, several at once, each resumed where it broke off."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from itertools import chain, islice
from typing import Any

from benchkit.errors import StoreError
from benchkit.store.retry import TransientError, Tries
from benchkit.store.s3_client import S3Client
from benchkit.store.s3_errors import OUT_OF_RANGE, Place

PART_BYTES = 32 << 20  # a default chunk: a request takes boto3 as long as receiving some MiB
PARTS_AHEAD = 3  # of all objects that are read at once together, but one of each at least
TRICKLE_BYTES = 64 << 10  # a request that brings less within stall_timeout_seconds is given up
_BLOCK_BYTES = 1 << 20  # each takes as much Python as the last, of which one thread at a time runs
_RESTARTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _ReplacedError(Exception):
    """The object is another one than when its reading began."""


def read_object(client: S3Client, place: Place, start: int, length: int | None) -> bytes:
    """Return `length` bytes from `start` (None: all that follow), all of one object.

    Raises:
        ObjectNotFoundError: There is none.
        StoreError: It has no such bytes, or the service failed.
    """
    for _ in range(_RESTARTS):
        with suppress(_ReplacedError):
            return b"".join(_Reading(client, place, start, length).blocks())
    raise StoreError(f"{place} is replaced again and again while it is read: read it later")


def stream_object(client: S3Client, place: Place, start: int, length: int | None) -> Iterator[bytes]:
    """Yield what `read_object` returns; at most `PARTS_AHEAD` + 1 parts of it are in memory.

    Raises:
        ObjectNotFoundError: There is none.
        StoreError: It has no such bytes, or the service failed, or the object was replaced after its first
            bytes had been given away.
    """
    for _ in range(_RESTARTS):
        begun = False
        with closing(_Reading(client, place, start, length).blocks()) as blocks:
            try:
                for block in blocks:
                    begun = True
                    yield block
            except _ReplacedError as error:
                if begun:
                    raise StoreError(f"{place} was replaced while it was read: read it again") from error
            else:
                return
    raise StoreError(f"{place} is replaced again and again while it is read: read it later")


class _Part:
    """A part that is fetched, in a thread that keeps nobody from ending, as one of a pool would."""

    def __init__(self, gather: Callable[[], list[bytes]]) -> None:
        self._blocks: Future[list[bytes]] = Future()
        arguments = (gather, self._blocks)
        self._thread = threading.Thread(target=_fetch, args=arguments, name="benchkit-s3-read", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until its thread has ended."""
        self._thread.join()

    def take(self) -> list[bytes]:
        """Wait for the part and return its blocks, or raise what went wrong."""
        self.wait()
        return self._blocks.result()


def _fetch(gather: Callable[[], list[bytes]], blocks: Future[list[bytes]]) -> None:
    try:
        blocks.set_result(gather())
    except BaseException as error:  # noqa: BLE001 - raised again where the part is taken
        blocks.set_exception(error)
    finally:
        del blocks  # it holds the error, whose traceback holds this frame


class _Reading:
    """One reading of one object, from the first request that tells its size to the last byte.

    The parts after the first are fetched by threads, which end with the generator. A service that sends the
    whole object whatever range it is asked for is read in one request, front to back.
    """

    def __init__(self, client: S3Client, place: Place, start: int, length: int | None) -> None:
        self._client = client
        self._place = place
        self._start = start
        self._length = length
        self._end = start + (PART_BYTES if length is None else length)
        self._etag: str | None = None
        self._total: int | None = None
        self._ranged = True
        self._stop = threading.Event()

    def blocks(self) -> Generator[bytes]:
        """Yield what is to be read."""
        if self._start < 0 or (self._length or 0) < 0:
            raise self._outside()
        if self._length == 0:
            self._learn_size()
            return
        head_end = min(self._start + PART_BYTES, self._end)
        head = self._part(self._start, head_end)
        begun = next(head, b"")  # from here on the size is known
        part: Iterable[bytes] = filter(None, chain([begun], head))
        if not self._ranged or self._end <= head_end:
            yield from part
            return
        starts = iter(range(head_end, self._end, PART_BYTES))
        ahead: deque[_Part] = deque()
        with self._client.sharing() as readers:
            try:
                while part:
                    more = max(1, PARTS_AHEAD // len(readers)) - len(ahead)
                    for start in islice(starts, max(0, more)):
                        ahead.append(_Part(partial(self._gather, start)))
                    yield from part
                    part = ahead.popleft().take() if ahead else ()
            finally:
                if not sys.is_finalizing():  # the threads have stopped where they were when Python ends
                    self._stop.set()
                    for waiting in ahead:
                        waiting.wait()

    def _gather(self, start: int) -> list[bytes]:
        return list(self._part(start, min(start + PART_BYTES, self._end)))

    def _part(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from start to end, or to the object's end; what has come is not asked for again."""
        tries = Tries(self._client.settings.attempts, sleep=self._stop.wait)
        first = self._total is None
        while not self._stop.is_set():
            with tries.again():
                for block in self._request(start, end):
                    start += len(block)
                    yield block
            if first and not self._ranged:
                end = self._end
            if start >= min(end, self._end):
                return

    def _request(self, start: int, end: int) -> Iterator[bytes]:
        """Make one request and yield what it brings of the bytes from start to end."""
        asked = f"bytes={start}-{end - 1}"
        answer = self._client.call_once("get_object", self._place, expected=OUT_OF_RANGE, Range=asked)
        if answer is None:
            self._learn_size()
            if start < self._end:
                raise _ReplacedError
            return
        first = self._total is None
        with answer["Body"] as raw:
            begin, finish, total = self._read_range(answer, start)
            self._learn(total, answer.get("ETag"))
            if first and not self._ranged:
                end = self._end  # it all comes at once
            yield from self._body(raw, skip=start - begin, wanted=min(finish, end, self._end) - start)

    def _body(self, raw: Any, *, skip: int, wanted: int) -> Iterator[bytes]:
        """Yield the wanted bytes of a body behind those to be skipped."""
        patience = self._client.settings.stall_timeout_seconds
        waited, brought = 0.0, 0
        while wanted and not self._stop.is_set():
            before = time.monotonic()
            with self._client.reading(self._place):
                block = raw.read1(min(_BLOCK_BYTES, skip + wanted))
            waited += time.monotonic() - before
            if not block:
                raise TransientError(f"{self._place} cannot be read: its bytes end too early")
            kept = block[skip:]
            skip -= len(block) - len(kept)
            wanted -= len(kept)
            brought += len(block)
            if brought >= TRICKLE_BYTES:
                waited, brought = 0.0, 0
            elif waited > patience and wanted:
                raise TransientError(
                    f"{self._place} cannot be read: fewer than {TRICKLE_BYTES} bytes came within "
                    f"{patience:g} seconds; check the network, or raise stall_timeout_seconds in [s3]"
                )
            if kept:
                yield kept

    def _read_range(self, answer: dict[str, Any], start: int) -> tuple[int, int, int]:
        """Return the first byte and the end of what an answer brings, and the size of the whole object."""
        said = answer.get("ContentRange")
        if said is None:
            total = int(answer["ContentLength"])
            self._ranged = False
            return 0, total, total
        match = _CONTENT_RANGE.fullmatch(said)
        begin, last, total = map(int, match.groups()) if match else (-1, -1, -1)
        if not start == begin <= last < total:
            raise TransientError(f"{self._place} cannot be read: the service sent what was not asked for")
        return begin, last + 1, total

    def _learn_size(self) -> None:
        answer = self._client.call("head_object", self._place, expected=())
        self._learn(int((answer or {}).get("ContentLength", 0)), None)

    def _learn(self, total: int, etag: str | None) -> None:
        """Note the object's size and tag, or check that they are still the same.

        Raises:
            StoreError: It has no such bytes as are to be read.
        """
        if self._total is None:
            end = total if self._length is None else self._start + self._length
            if not self._start <= end <= total:
                raise self._outside()
            self._end, self._total, self._etag = end, total, etag
        if total != self._total or (etag and self._etag and etag != self._etag):
            raise _ReplacedError

    def _outside(self) -> StoreError:
        return StoreError(f"{self._place} has no {self._length} bytes at {self._start}")
