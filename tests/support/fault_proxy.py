"""A proxy between an S3 client and its server, which writes down every request and makes faults at the wire.

Requests and answers pass untouched (`Host` too, so signatures hold), but where a `Fault` was asked for::

    with FaultProxy(server.endpoint) as proxy:
        proxy.inject(Fault("download", "reset", at=1000), operation="GetObject", times=2)
        ...  # a client of proxy.url
        assert [request.operation for request in proxy.requests] == ["GetObject"] * 3

Connections are served by threads of this process: fork while none is open, or a forked child keeps it open.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from support.faults import Fault, Pace, Request, Script, Stage

BLOCK_BYTES = 1 << 16
BODILESS = (204, 304)
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection")
_ERROR = "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{0}</Code><Message>{0}</Message></Error>"


class FaultProxy(Script):
    """The proxy: a `with` block in which it serves; the end of the block ends every stall.

    Args:
        endpoint: The server's URL, `http://host:port`.
        rate: Bytes per second that pass in both directions together; None for as many as can.
    """

    def __init__(self, endpoint: str, *, rate: float | None = None) -> None:
        super().__init__()
        upstream = urlsplit(endpoint)
        self.upstream = (str(upstream.hostname), int(upstream.port or 80))
        self.pace = Pace(rate) if rate else None

    def __enter__(self) -> FaultProxy:  # noqa: PYI034
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fault-proxy")
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        if self._server.failures:
            raise self._server.failures[0]

    @property
    def url(self) -> str:
        """The endpoint for the client."""
        return "http://{}:{}".format(*self._server.server_address[:2])


class _GoneError(Exception):
    """The client's connection is no more: nothing of this request is left to do."""


class _Server(ThreadingHTTPServer):
    """The listening socket, and the connections that are open."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        # What the kernel takes in advance of a reader that stalls or is slow looks like progress to a client.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK_BYTES)
        self.proxy = proxy
        self.failures: list[BaseException] = []
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        self.failures += [error] if error else []

    def hang_up(self) -> None:
        """End the waiting for a next request on connections that are kept alive."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client's, and the requests that come on it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, _GoneError):
            super().handle()

    def handle_expect_100(self) -> bool:
        return True  # told to go on only when the body is wanted

    def log_message(self, *_message: Any) -> None:
        pass

    def exchange(self) -> None:
        """Pass one request on and its answer back."""
        proxy = self.server.proxy
        request, fault = proxy.begin(self.command, self.path, self.headers["Range"])
        if fault and fault.stage == "request" and self._done(fault, request):
            return
        with contextlib.closing(http.client.HTTPConnection(*proxy.upstream, timeout=60)) as upstream:
            self._ask(upstream, request, fault)
            answer = upstream.getresponse()
            request.served = answer.status
            if not (fault and fault.stage == "answer" and self._done(fault, request)):
                self._tell(answer, request, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = exchange  # noqa: N815

    def _ask(self, upstream: http.client.HTTPConnection, request: Request, fault: Fault | None) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        chunked = "Transfer-Encoding" in self.headers
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        for block in self._faulted(self._body(request), request, fault, "upload"):
            if not _sent(upstream, _framed(block) if chunked else block):
                self.close_connection = True  # the server has answered without waiting for the rest
                return
        if chunked:
            upstream.send(_framed(b""))

    def _tell(self, answer: http.client.HTTPResponse, request: Request, fault: Fault | None) -> None:
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        length = answer.getheader("Content-Length")
        bodiless = self.command == "HEAD" or answer.status in BODILESS
        chunked = length is None and not bodiless
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        self._start(request, answer.status, headers, answer.reason)
        blocks = iter(lambda: answer.read1(BLOCK_BYTES), b"")
        for block in self._faulted(blocks, request, fault, "download"):
            request.received += len(block)
            self.wfile.write(_framed(block) if chunked else block)
        if chunked:
            self.wfile.write(_framed(b""))
        elif not bodiless and request.received != int(length or 0):
            self.close_connection = True

    def _start(
        self, request: Request, status: int, headers: list[tuple[str, str]], reason: str | None = None
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        request.status = status
        self.end_headers()

    def _body(self, request: Request) -> Iterator[bytes]:
        """Yield the request's body, without the frames of chunks."""
        if "Expect" in self.headers:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunked = "Transfer-Encoding" in self.headers
        left = 0 if chunked else int(self.headers.get("Content-Length", 0))
        while chunked or left:
            if chunked:
                left = int(self.rfile.readline().partition(b";")[0] or b"0", 16)
            block = self.rfile.read(left) if chunked else self.rfile.read1(min(left, BLOCK_BYTES))
            if left and not block:
                raise _GoneError
            if chunked and not (self.rfile.readline() and left):
                return
            left -= len(block)
            request.sent += len(block)
            yield block

    def _faulted(
        self, blocks: Iterator[bytes], request: Request, fault: Fault | None, stage: Stage
    ) -> Iterator[bytes]:
        """Yield the blocks of a body, with what the fault does to them."""
        proxy, at, trickle = self.server.proxy, 0, None
        for block in blocks:
            rest = block
            if fault and fault.stage == stage and at <= fault.at < at + len(block):
                before, rest = block[: fault.at - at], block[fault.at - at :]
                if before:
                    yield before
                request.fault = fault
                if fault.deed == "flip":
                    rest = bytes([rest[0] ^ 1]) + rest[1:]
                elif fault.deed == "trickle":
                    trickle = Pace(fault.rate)
                else:
                    self._done(fault, request)
            step = len(rest) if trickle is None or fault is None else max(1, int(fault.rate / 20))
            for start in range(0, len(rest), step):
                piece = rest[start : start + step]
                for pace in (trickle, proxy.pace):
                    if pace:
                        pace.wait(len(piece), proxy.ended)
                yield piece
            at += len(block)

    def _done(self, fault: Fault, request: Request) -> bool:
        """Do what is no change of a body's bytes, and return whether the client has its answer."""
        request.fault = fault
        if fault.deed == "call" and fault.call:
            fault.call(request)
        elif fault.deed == "stall" and self.server.proxy.ended.wait(fault.seconds):
            raise _GoneError
        elif fault.deed == "refuse":
            self._refuse(fault, request)
            return True
        elif fault.deed == "reset":
            self.rfile.close()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise _GoneError
        elif fault.deed == "close":
            raise _GoneError
        return False

    def _refuse(self, fault: Fault, request: Request) -> None:
        if fault.stage == "request" and "Expect" in self.headers:
            self.close_connection = True  # the body stays where it is
        elif fault.stage == "request":
            for _ in self._body(request):
                pass
        text = _ERROR.format(fault.code).encode() if fault.code else b""
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
        self._start(request, fault.status, headers)
        if self.command != "HEAD":
            self.wfile.write(text)


def _sent(upstream: http.client.HTTPConnection, data: bytes) -> bool:
    try:
        upstream.send(data)
    except OSError:
        return False
    return True


def _framed(block: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(block), block)
