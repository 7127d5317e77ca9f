"""The fault proxy: what it lets pass is untouched, and each fault is the fault that was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import math
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import Bucket

DATA = bytes(range(256)) * 4096


class Echo(BaseHTTPRequestHandler):
    """Answers with what was asked: the path says how, the digest of the body that came is in a header."""

    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        if self.path.startswith("/chunked"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(DATA), 100_000):
                block = DATA[start : start + 100_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
            return
        status = int(self.path.partition("status=")[2] or 200)
        self.send_response(status)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(DATA)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        if status not in (204, 304) and self.command != "HEAD":
            self.wfile.write(DATA)

    def do_PUT(self) -> None:
        if "Transfer-Encoding" in self.headers:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(size := int(self.headers["Content-Length"]))
            if len(body) < size:
                self.close_connection = True
                return
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("ETag", hashlib.md5(body, usedforsecurity=False).hexdigest())
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_message: object) -> None:
        pass


@pytest.fixture
def bodies() -> list[bytes]:
    """Return the bodies that the server has got whole."""
    return []


@pytest.fixture
def proxy(bodies: list[bytes]) -> Iterator[FaultProxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        server.bodies = bodies  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        with FaultProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def connection(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(proxy.url.partition("://")[2], timeout=10)
    yield connection
    connection.close()


def get(connection: http.client.HTTPConnection, path: str = "/b/k") -> bytes:
    connection.request("GET", path)
    return connection.getresponse().read()


def put(connection: http.client.HTTPConnection, body: bytes = DATA) -> int:
    connection.request("PUT", "/b/k", body)
    answer = connection.getresponse()
    answer.read()
    return answer.status


class TestWithoutFaults:
    @pytest.mark.parametrize("path", ["/plain", "/chunked"])
    def test_answers_pass_as_they_are_on_one_connection(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection, path: str
    ) -> None:
        assert get(connection, path) == DATA
        first = connection.sock
        assert get(connection, path) == DATA
        assert connection.sock is first
        assert [request.received for request in proxy.requests] == [len(DATA)] * 2

    @pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
    def test_answers_without_a_body_end_at_their_head(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection, method: str, status: int
    ) -> None:
        connection.request(method, f"/b/k?status={status}")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        assert answer.headers["Content-Length"] == (str(len(DATA)) if method == "HEAD" else None)
        assert get(connection) == DATA

    def test_the_host_is_the_one_the_client_named(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        connection.request("GET", "/b/k", headers={"Host": "bucket.example"})
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["X-Host"] == "bucket.example"

    @pytest.mark.parametrize("chunked", [False, True])
    def test_bodies_of_requests_pass_as_they_are(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection, chunked: bool
    ) -> None:
        blocks = (DATA[start : start + 300_000] for start in range(0, len(DATA), 300_000))
        connection.request("PUT", "/b/k", blocks if chunked else DATA, encode_chunked=chunked)
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["ETag"] == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
        assert bodies == [DATA]
        assert [(request.sent, request.status) for request in proxy.requests] == [(len(DATA), 200)]

    def test_a_client_that_waits_to_be_told_to_go_on_is_told(
        self, bodies: list[bytes], proxy: FaultProxy
    ) -> None:
        with socket.create_connection(_address(proxy)) as raw:
            raw.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            assert raw.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            raw.sendall(b"data")
            assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        assert bodies == [b"data"]

    def test_requests_are_known_by_what_s3_calls_them(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        for method, path in (
            ("GET", "/b?list-type=2&prefix=a%2Fb"),
            ("GET", "/b/?uploads"),
            ("GET", "/b/a%20b/c"),
            ("GET", "/b/k?uploadId=1"),
            ("HEAD", "/b/k"),
            ("HEAD", "/b"),
            ("PUT", "/b/k"),
            ("PUT", "/b/k?partNumber=1&uploadId=1"),
        ):
            connection.request(method, path, b"" if method == "PUT" else None)
            connection.getresponse().read()
        assert [request.operation for request in proxy.requests] == [
            "ListObjects",
            "ListMultipartUploads",
            "GetObject",
            "ListParts",
            "HeadObject",
            "HeadBucket",
            "PutObject",
            "UploadPart",
        ]
        assert proxy.requests[0].query == {"list-type": "2", "prefix": "a/b"}
        assert proxy.requests[2].key == "/b/a b/c"


class TestWhichRequests:
    def test_a_fault_meets_so_many_of_its_requests_after_so_many(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        refusal = Fault("request", "refuse", status=503, code="SlowDown")
        proxy.inject(refusal, operation="GetObject", where=lambda r: r.key == "/b/k", skip=1, times=2)
        for path in ("/b/k", "/b/other", "/b/k", "/b/k", "/b/k"):
            get(connection, path)
        assert [request.status for request in proxy.requests] == [200, 200, 503, 503, 200]
        assert [request.fault for request in proxy.requests] == [None, None, refusal, refusal, None]

    def test_the_fault_asked_for_first_wins(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("request", "refuse", status=500), times=1)
        proxy.inject(Fault("request", "refuse", status=503), times=math.inf)
        for _ in range(3):
            get(connection)
        assert [request.status for request in proxy.requests] == [500, 503, 503]
        proxy.forget()
        assert get(connection) == DATA
        assert len(proxy.requests) == 1


class TestFaults:
    @pytest.mark.parametrize("stage", ["request", "answer"])
    def test_a_refusal_is_an_answer_of_its_own(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection, stage: str
    ) -> None:
        proxy.inject(Fault(stage, "refuse", status=503, code="SlowDown"))
        connection.request("PUT", "/b/k", DATA)
        answer = connection.getresponse()
        assert answer.status == 503
        assert b"<Code>SlowDown</Code>" in answer.read()
        assert len(bodies) == (stage == "answer")
        assert put(connection) == 200

    def test_a_refusal_of_a_head_has_no_body(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("request", "refuse", status=403, code="AccessDenied"))
        connection.request("HEAD", "/b/k")
        assert connection.getresponse().read() == b""
        assert get(connection) == DATA

    def test_a_refusal_needs_no_body_of_a_client_that_waits(self, proxy: FaultProxy) -> None:
        proxy.inject(Fault("request", "refuse", status=403, code="AccessDenied"))
        with socket.create_connection(_address(proxy)) as raw:
            raw.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 403")
            while raw.recv(1000):
                pass

    @pytest.mark.parametrize("stage", ["request", "answer"])
    def test_a_reset_is_before_or_after_the_server_did_its_work(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection, stage: str
    ) -> None:
        proxy.inject(Fault(stage, "reset"))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            put(connection)
        assert len(bodies) == (stage == "answer")
        (request,) = proxy.requests
        assert (request.status, request.served) == (None, 200 if stage == "answer" else None)

    def test_a_lost_answer_is_lost_after_the_work(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("answer", "close"))
        with pytest.raises(http.client.RemoteDisconnected):
            put(connection)
        assert bodies == [DATA]

    @pytest.mark.parametrize("at", [0, 1, 100_000, len(DATA) - 1])
    def test_a_download_ends_short_of_its_length(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection, at: int
    ) -> None:
        proxy.inject(Fault("download", "close", at=at))
        connection.request("GET", "/b/k")
        answer = connection.getresponse()
        assert answer.headers["Content-Length"] == str(len(DATA))
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
        assert caught.value.partial == DATA[:at]
        assert proxy.requests[0].received == at

    def test_a_download_is_reset_in_the_middle(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("download", "reset", at=300_000))
        with pytest.raises(ConnectionResetError):
            get(connection)
        assert proxy.requests[0].received == 300_000

    def test_an_upload_is_reset_in_the_middle(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("upload", "reset", at=300_000))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            put(connection, DATA * 16)
        assert bodies == []
        assert proxy.requests[0].served is None

    @pytest.mark.parametrize("at", [0, 65_535, 65_536, len(DATA) - 1])
    def test_one_bit_of_a_body_is_flipped(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection, at: int
    ) -> None:
        flipped = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
        proxy.inject(Fault("download", "flip", at=at), operation="GetObject")
        proxy.inject(Fault("upload", "flip", at=at), operation="PutObject")
        assert get(connection) == flipped
        assert get(connection) == DATA
        put(connection)
        put(connection)
        assert bodies == [flipped, DATA]

    def test_a_fault_behind_the_end_of_a_body_is_none(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("download", "reset", at=len(DATA)))
        assert get(connection) == DATA
        assert proxy.requests[0].fault is None

    @pytest.mark.parametrize(
        ("stage", "operation"),
        [("request", "GET"), ("download", "GET"), ("answer", "PUT"), ("upload", "PUT")],
    )
    def test_a_stall_lasts_so_long_and_then_all_goes_on(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection, stage: str, operation: str
    ) -> None:
        proxy.inject(Fault(stage, "stall", at=1000 if stage.endswith("load") else 0, seconds=0.3))
        start = time.monotonic()
        assert (get(connection) == DATA) if operation == "GET" else (put(connection) == 200)
        assert 0.3 <= time.monotonic() - start < 3

    def test_a_stalled_request_that_is_forgotten_is_never_passed_on(
        self, bodies: list[bytes], proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        proxy.inject(Fault("request", "stall", seconds=60))
        connection.timeout = 0.3
        with pytest.raises(TimeoutError):
            put(connection)
        before = threading.active_count()
        proxy.forget()
        deadline = time.monotonic() + 5
        while threading.active_count() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() == before - 1
        assert bodies == []

    def test_a_stall_ends_with_the_proxy(self, proxy: FaultProxy) -> None:
        with FaultProxy("http://{}:{}".format(*proxy.upstream)) as other:
            other.inject(Fault("download", "stall", at=1000, seconds=60))
            connection = http.client.HTTPConnection(*_address(other), timeout=0.3)
            with pytest.raises(TimeoutError):
                get(connection)
            start = time.monotonic()
        assert time.monotonic() - start < 5
        connection.close()

    def test_a_trickle_has_its_rate(self, proxy: FaultProxy, connection: http.client.HTTPConnection) -> None:
        proxy.inject(Fault("download", "trickle", at=len(DATA) - 1000, rate=2500))
        start = time.monotonic()
        assert get(connection) == DATA
        assert 0.3 < time.monotonic() - start < 3

    def test_a_call_sees_the_request_on_its_way(
        self, proxy: FaultProxy, connection: http.client.HTTPConnection
    ) -> None:
        seen: list[int] = []
        proxy.inject(Fault("upload", "call", at=300_000, call=lambda r: seen.append(r.sent)))
        assert put(connection) == 200
        assert 300_000 < seen[0] <= 300_000 + (1 << 16)

    def test_all_together_have_the_rate_of_the_proxy(self, proxy: FaultProxy) -> None:
        with FaultProxy("http://{}:{}".format(*proxy.upstream), rate=len(DATA) * 4) as slow:
            start = time.monotonic()
            threads = [threading.Thread(target=self._get_once, args=(slow,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert 0.4 < time.monotonic() - start < 5

    @staticmethod
    def _get_once(proxy: FaultProxy) -> None:
        connection = http.client.HTTPConnection(*_address(proxy))
        get(connection)
        connection.close()


class TestBeforeSwift:
    """boto3 through the proxy to a server that checks signatures and checksums."""

    @pytest.fixture
    def through(self, swift_bucket: Bucket) -> Iterator[FaultProxy]:
        with FaultProxy(swift_bucket.server.endpoint) as proxy:
            yield proxy

    def test_signatures_hold(self, swift_bucket: Bucket, through: FaultProxy) -> None:
        client = swift_bucket.server.client(through.url)
        client.put_object(Bucket=swift_bucket.name, Key="a b/ü+?", Body=DATA)
        assert client.get_object(Bucket=swift_bucket.name, Key="a b/ü+?")["Body"].read() == DATA
        assert client.head_object(Bucket=swift_bucket.name, Key="a b/ü+?")["ContentLength"] == len(DATA)
        assert client.list_objects_v2(Bucket=swift_bucket.name)["KeyCount"] == 1
        client.delete_object(Bucket=swift_bucket.name, Key="a b/ü+?")
        assert [request.status for request in through.requests] == [200, 200, 200, 200, 204]
        assert swift_bucket.objects() == {}
        client.close()

    def test_a_flipped_bit_in_an_upload_is_noticed_by_the_server(
        self, swift_bucket: Bucket, through: FaultProxy
    ) -> None:
        through.inject(Fault("upload", "flip", at=1000))
        client = swift_bucket.server.client(through.url)
        with pytest.raises(ClientError):
            client.put_object(Bucket=swift_bucket.name, Key="a", Body=DATA)
        assert swift_bucket.objects() == {}
        client.close()

    def test_a_flipped_bit_in_a_range_is_noticed_by_nobody(
        self, swift_bucket: Bucket, through: FaultProxy
    ) -> None:
        swift_bucket.client.put_object(Bucket=swift_bucket.name, Key="a", Body=DATA)
        through.inject(Fault("download", "flip", at=0))
        client = swift_bucket.server.client(through.url)
        body = client.get_object(Bucket=swift_bucket.name, Key="a", Range="bytes=0-9")["Body"].read()
        assert body == b"\x01" + DATA[1:10]
        client.close()


def _address(proxy: FaultProxy) -> tuple[str, int]:
    host, _, port = proxy.url.partition("://")[2].partition(":")
    return host, int(port)
