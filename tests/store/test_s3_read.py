"""Reading from S3: each byte is asked for once, of one object, also of a service that knows no ranges."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault, Request
from support.reading import wait_for
from support.s3_servers import Bucket
from support.s3_stores import MIB, PREFIX, open_bucket

from benchkit.errors import StoreError
from benchkit.settings import S3Settings
from benchkit.store.s3 import S3Store

LARGE = random.Random(8).randbytes(23 * MIB + 3)

pytestmark = pytest.mark.usefixtures("small_parts")


def s3_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("benchkit-s3")]


def test_what_is_read_is_asked_for_once_and_several_parts_at_a_time(swift_bucket: Bucket) -> None:
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        store = open_bucket(swift_bucket, endpoint=proxy.url)
        store.write("large", LARGE)
        proxy.inject(Fault("answer", "stall", seconds=0.3), operation="GetObject", times=100)
        blocks = list(store.stream("large"))
        assert b"".join(blocks) == LARGE
        assert max(map(len, blocks)) <= 4 * MIB
        reads = [request for request in proxy.requests if request.operation == "GetObject"]
        assert sum(request.received for request in reads) == len(LARGE)
        assert len(reads) == 6
        began = sorted(request.began for request in reads)
        assert began[3] - began[1] < 0.3 <= began[1] - began[0]


def test_no_thread_outlives_a_stream_that_is_closed_fails_or_ends(
    swift_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_bucket(swift_bucket)
    store.write("large", LARGE)
    stream = store.stream("large")
    next(stream)
    assert s3_threads() != []
    stream.close()  # type: ignore[attr-defined]
    assert s3_threads() == []
    assert len(list(store.stream("large"))) > 1
    assert s3_threads() == []
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        proxied = open_bucket(swift_bucket, endpoint=proxy.url)
        denied = Fault("request", "refuse", status=403, code="AccessDenied")
        proxy.inject(denied, operation="GetObject", skip=3)
        with pytest.raises(StoreError, match="s3:GetObject"):
            list(proxied.stream("large"))
    assert s3_threads() == []


def test_objects_that_are_read_at_once_share_what_is_read_ahead() -> None:
    with serve(content_range=f"bytes {{first}}-{{last}}/{len(LARGE)}") as service:
        streams, total = [], 0
        for parts in (1 + 3, 1 + 1, 1 + 1, 1 + 1):
            streams.append(service.store.stream("a"))
            begun = next(streams[-1])
            total += parts
            wait_for(lambda total=total: len(service.asked) == total)  # type: ignore[misc]
        time.sleep(0.1)
        assert len(service.asked) == total
        assert begun + b"".join(streams[-1]) == LARGE
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]


def test_an_object_replaced_while_it_is_read_is_read_anew_or_is_an_error(swift_bucket: Bucket) -> None:
    other = LARGE[::-1]
    with FaultProxy(swift_bucket.server.endpoint) as proxy:
        store = open_bucket(swift_bucket, endpoint=proxy.url)
        put = swift_bucket.client.put_object

        def replace(_request: Request) -> None:
            put(Bucket=swift_bucket.name, Key=f"{PREFIX}/large", Body=other)

        store.write("large", LARGE)
        proxy.inject(Fault("request", "call", call=replace), operation="GetObject", skip=1)
        assert store.read("large") == other
        store.write("large", LARGE)
        proxy.inject(Fault("request", "call", call=replace), operation="GetObject", skip=5)
        with pytest.raises(StoreError, match=r"large in s3://.* was replaced while it was read"):
            list(store.stream("large"))


class OddService(ThreadingHTTPServer):
    """A service with one object, which answers ranges as no other does.

    Attributes:
        data: The object.
        content_range: What it says that it sends; None: it knows no ranges, and sends the whole.
        cuts: After how many bytes the next answers break off.
        halt_behind: What begins behind so many bytes is answered only once `going_on` is set.
        asked: The ranges that it was asked for.
        store: A store at it.
    """

    def __init__(self, data: bytes, content_range: str | None = None, cuts: tuple[int, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), OddAnswer)
        self.data = data
        self.content_range = content_range
        self.cuts = list(cuts)
        self.halt_behind = sys.maxsize
        self.going_on = threading.Event()
        self.asked: list[str] = []
        endpoint = f"http://127.0.0.1:{self.server_port}"
        self.store = S3Store("bucket", "", S3Settings(endpoint_url=endpoint, anonymous=True, attempts=3))


class OddAnswer(BaseHTTPRequestHandler):
    """One answer of the odd service's."""

    protocol_version = "HTTP/1.1"
    server: OddService

    def do_GET(self) -> None:
        asked, content_range = self.headers["Range"], self.server.content_range
        self.server.asked.append(asked)
        first, last = map(int, re.findall(r"\d+", asked))
        if first >= self.server.halt_behind:
            self.server.going_on.wait()
        body = self.server.data if content_range is None else self.server.data[first : last + 1]
        self.send_response(200 if content_range is None else 206)
        if content_range:
            self.send_header("Content-Range", content_range.format(first=first, last=last))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(body)
        with suppress(ConnectionError):
            self.wfile.write(body[:end])
        self.close_connection = end < len(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(
    data: bytes = LARGE, *, content_range: str | None = None, cuts: tuple[int, ...] = ()
) -> Iterator[OddService]:
    with OddService(data, content_range, cuts) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, len(LARGE)])
def test_a_service_without_ranges_is_read_in_one_request(size: int) -> None:
    with serve(LARGE[:size]) as service:
        assert b"".join(service.store.stream("a")) == LARGE[:size]
        assert len(service.asked) == 1
        assert service.store.read("a") == LARGE[:size]
        assert len(service.asked) == 2


def test_a_range_is_cut_out_of_what_a_service_without_ranges_sends() -> None:
    with serve() as service:
        read = service.store.read
        for start, length in [
            (0, 1),
            (10, 5 * MIB),
            (20 * MIB, None),
            (len(LARGE) - 1, 1),
            (len(LARGE), None),
        ]:
            end = None if length is None else start + length
            assert read("a", start=start, length=length) == LARGE[start:end]
        with pytest.raises(StoreError, match=f"has no 2 bytes at {len(LARGE) - 1}"):
            read("a", start=len(LARGE) - 1, length=2)


def test_what_has_come_of_a_service_without_ranges_is_not_given_twice() -> None:
    with serve(cuts=(9 * MIB + 1, 20 * MIB)) as service:
        blocks = list(service.store.stream("a"))
        assert b"".join(blocks) == LARGE
        assert max(map(len, blocks)) <= 4 * MIB
        assert len(service.asked) == 3


def test_bytes_that_keep_ending_too_early_are_an_error_after_the_attempts() -> None:
    ends_early = pytest.raises(StoreError, match=r"its bytes end too early \(tried 3 times\)")
    with serve(cuts=(9 * MIB + 1, 5 * MIB, 20 * MIB)) as service, ends_early:
        list(service.store.stream("a"))


@pytest.mark.parametrize(
    "content_range",
    ["bytes 5-9/100", "bytes {last}-{first}/100", "bytes {first}-{last}/*", "bytes", "bytes 0-0/0"],
)
def test_an_answer_with_another_range_than_asked_for_is_none(content_range: str) -> None:
    with serve(content_range=content_range) as service:
        with pytest.raises(StoreError, match=r"what was not asked for.*tried 3 times"):
            service.store.read("a", length=3)
        assert len(service.asked) == 3


STALLED = """
import sys
from benchkit.settings import S3Settings
from benchkit.store import s3_read
from benchkit.store.s3 import S3Store
from benchkit.stream.patience import call_patiently

s3_read.PART_BYTES = int(sys.argv[2])
store = S3Store("bucket", "", S3Settings(endpoint_url=sys.argv[1], anonymous=True))
call_patiently(lambda: list(store.stream("a")), state=bool, seconds=0.5, what="reading")
"""


def test_a_part_that_stands_still_keeps_nobody_from_ending() -> None:
    with serve(content_range=f"bytes {{first}}-{{last}}/{len(LARGE)}") as service:
        service.halt_behind = 4 * MIB
        started = time.monotonic()
        endpoint = str(service.store.settings.endpoint_url)
        command = [sys.executable, "-c", STALLED, endpoint, str(4 * MIB)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        taken = time.monotonic() - started
        service.going_on.set()
        assert "StallError: reading has got nothing for 0.5 s" in done.stderr
        assert taken < 20  # a request is waited for 30 seconds
