"""Faults between an S3 client and its server: what came, what shall go wrong, and with which request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote

OPERATIONS = (
    ("POST", "uploads", "CreateMultipartUpload"),
    ("PUT", "partNumber", "UploadPart"),
    ("POST", "uploadId", "CompleteMultipartUpload"),
    ("DELETE", "uploadId", "AbortMultipartUpload"),
    ("GET", "uploadId", "ListParts"),
    ("GET", "uploads", "ListMultipartUploads"),
    ("POST", "delete", "DeleteObjects"),
)

Stage = Literal["request", "upload", "answer", "download"]
Deed = Literal["refuse", "reset", "close", "stall", "flip", "trickle", "call"]


@dataclass
class Request:
    """A request as it passed, and what became of it.

    Attributes:
        began: When it came, in seconds of `time.monotonic`.
        sent: Bytes of its body that the client has sent so far.
        received: Bytes of the answer's body that went to the client so far.
        served: The status that the server gave; None where it was not asked, or has not answered.
        status: The status that the client was told; None for none.
        fault: What was done to it.
    """

    began: float
    method: str
    key: str
    query: dict[str, str]
    range: str | None
    sent: int = 0
    received: int = 0
    served: int | None = None
    status: int | None = None
    fault: Fault | None = None

    @property
    def operation(self) -> str:
        """What S3 calls it."""
        for method, key, name in OPERATIONS:
            if method == self.method and key in self.query:
                return name
        if self.key.strip("/").partition("/")[2]:
            return f"{self.method.capitalize()}Object"
        return "ListObjects" if self.method == "GET" else f"{self.method.capitalize()}Bucket"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        stage: When: before the server is asked ("request"), in the body of the request ("upload"), when the
            server has done its work and before the client is told ("answer"), or in the body of the answer.
        deed: What: a status in place of the server's ("refuse"), a connection that is reset or closed, that
            says nothing for a while ("stall") or little at a time ("trickle"), a flipped bit of one byte,
            or a call of the test's own, after which the request goes on.
        at: Before which byte of the body; a body that has no such byte is left alone.
        seconds: How long to stall.
        rate: How many bytes trickle through in a second.
        status: The status to refuse with.
        code: The code of S3's to refuse with; without one the answer has no body.
        call: What to call.
    """

    stage: Stage
    deed: Deed
    at: int = 0
    seconds: float = 0
    rate: float = 0
    status: int = 0
    code: str = ""
    call: Callable[[Request], object] | None = None


@dataclass
class _Rule:
    fault: Fault
    matches: Callable[[Request], bool]
    skip: int
    times: float


class Script:
    """The requests that came, and the faults that were asked for; any thread may tell it or ask it.

    Attributes:
        ended: Set when the stalls of now are to end.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._requests: list[Request] = []

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which they came."""
        with self._lock:
            return list(self._requests)

    def count(self, operation: str) -> int:
        """Return how many requests there were for an operation."""
        return sum(request.operation == operation for request in self.requests)

    def inject(
        self,
        fault: Fault,
        *,
        operation: str | None = None,
        where: Callable[[Request], bool] = lambda _request: True,
        skip: int = 0,
        times: float = 1,
    ) -> None:
        """Do something to some of the requests to come; of two faults the one asked for first wins.

        Args:
            fault: What to do.
            operation: To which operation; None is any.
            where: To which requests of it.
            skip: How many of these are spared first.
            times: To how many; `math.inf` is all.
        """

        def matches(request: Request) -> bool:
            return operation in (None, request.operation) and where(request)

        with self._lock:
            self._rules.append(_Rule(fault, matches, skip, times))

    def forget(self) -> None:
        """Forget the requests and the faults so far; connections that are stalled are closed."""
        with self._lock:
            self._rules.clear()
            self._requests = []
            self.ended.set()
            self.ended = threading.Event()

    def begin(self, method: str, target: str, range_: str | None) -> tuple[Request, Fault | None]:
        """Write a request down, and return it with what shall be done to it."""
        path, _, query = target.partition("?")
        values = {key: value[-1] for key, value in parse_qs(query, keep_blank_values=True).items()}
        with self._lock:
            request = Request(time.monotonic(), method, unquote(path), values, range_)
            self._requests.append(request)
            for rule in self._rules:
                if rule.matches(request):
                    if rule.skip:
                        rule.skip -= 1
                    elif rule.times:
                        rule.times -= 1
                        return request, rule.fault
        return request, None


class Pace:
    """A limit of bytes per second, kept by all that wait for it together."""

    def __init__(self, rate: float) -> None:
        self._rate, self._lock, self._free = rate, threading.Lock(), 0.0

    def wait(self, size: int, ended: threading.Event) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            seconds = self._free - time.monotonic()
        ended.wait(max(0.0, seconds))


def first_time() -> Callable[[Request], bool]:
    """Return what says of a request whether no equal one has been asked about before."""
    seen = set()

    def is_new(request: Request) -> bool:
        told = (request.operation, request.key, *request.query.items())
        new = told not in seen
        seen.add(told)
        return new

    return is_new
