"""What an S3 store does when something goes wrong on the way: every use of it, and every fault it can meet.

A fault that passes costs one request more; one that stays ends the use after its attempts; one that no second
try mends ends it at once. Nothing wrong is stored or served in any case, and no secret is told.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault
from support.s3_servers import SECRET_KEY, Bucket, Server, make_bucket
from support.s3_stores import open_bucket
from support.s3_uses import (
    CUTS,
    DELETE,
    ENDS,
    FINAL,
    IN_ANSWERS,
    IN_BODIES,
    IN_LISTINGS,
    LARGE,
    LISTINGS,
    OLD,
    READS,
    REFUSALS,
    STALL,
    USES,
    WRITES,
    Use,
    check_objects,
    fill,
    is_first,
)

from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.store.s3 import S3Store

ATTEMPTS = 3
STALL_SECONDS = 1.0

pytestmark = pytest.mark.usefixtures("s3_environment", "short_waits", "small_parts")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between tries, of which there are hundreds here."""
    monkeypatch.setattr("benchkit.store.retry.BASE_SECONDS", 0.02)


@pytest.fixture(scope="module", params=["swift"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def filled(server: Server) -> Bucket:
    bucket = make_bucket(server)
    fill(bucket, "small", "large", "new")
    return bucket


@pytest.fixture(scope="module")
def serving(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def kept(filled: Bucket, serving: FaultProxy) -> S3Store:
    """Return one store for all tests here: a client of boto3's takes longer to make than most of them."""
    return open_bucket(filled, endpoint=serving.url, attempts=ATTEMPTS)


@pytest.fixture
def bucket(filled: Bucket) -> Bucket:
    fill(filled, "small", "new")
    return filled


@pytest.fixture
def proxy(serving: FaultProxy) -> Iterator[FaultProxy]:
    serving.forget()
    yield serving
    serving.forget()


@pytest.fixture
def store(kept: S3Store, bucket: Bucket, proxy: FaultProxy) -> S3Store:
    return kept


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("large") / "file"
    file.write_bytes(LARGE)
    return file


def meetings(*groups: tuple[tuple[Use, ...], dict[str, Fault]]) -> list[object]:
    """Return every use with every fault of its group."""
    return [
        pytest.param(use, fault, id=f"{use.name}-{name}")
        for uses, faults in groups
        for use in uses
        for name, fault in faults.items()
    ]


def for_fault(store: S3Store, fault: Fault) -> S3Store:
    """Return the store, impatient where it is to meet a stall: a loaded machine can be slow without one."""
    if fault.deed not in ("stall", "trickle"):
        return store
    return replace(store, settings=replace(store.settings, stall_timeout_seconds=STALL_SECONDS))


def some(faults: dict[str, Fault], *names: str) -> dict[str, Fault]:
    return {name: faults[name] for name in names}


def check_text(error: BaseException) -> None:
    """See to it that an error tells no secret, nor does what led to it."""
    text = "".join(traceback.format_exception(error)) + repr(error)
    assert SECRET_KEY not in text
    assert "Signature=" not in text


def count_faults(proxy: FaultProxy) -> int:
    return sum(request.fault is not None for request in proxy.requests)


def in_vain(use: Use, fault: Fault) -> bool:
    """Return whether an upload is begun whose name nobody is told."""
    return use.request == "CreateMultipartUpload" and fault.stage in ("answer", "download")


def meet_once(use: Use, fault: Fault, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path) -> None:
    """Let a use meet a fault that passes, and see to it that it does what it should for a request more."""
    proxy.inject(fault, operation=use.request)
    start = time.monotonic()
    use.check(use.do(for_fault(store, fault), large), bucket)
    assert time.monotonic() - start < 20 * STALL_SECONDS
    assert count_faults(proxy) == 1
    completed = use.request == "CompleteMultipartUpload" and fault.stage in ("answer", "download")
    assert len(proxy.requests) <= use.requests + 1 + completed  # it may look whether it is
    assert len(bucket.uploads()) == in_vain(use, fault)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_undisturbed_a_use_takes_the_requests_it_takes(
    use: Use, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
) -> None:
    use.check(use.do(store, large), bucket)
    assert len(proxy.requests) == use.requests
    assert proxy.count(use.request) > 0
    assert bucket.uploads() == []


@pytest.mark.parametrize(
    ("use", "fault"),
    meetings(
        (USES, REFUSALS | CUTS),
        ((READS[0], LISTINGS[0], WRITES[0], ENDS[1], DELETE), STALL),
        ((READS[0], READS[2]), IN_ANSWERS),
        ((*LISTINGS, *ENDS), IN_LISTINGS),
        (WRITES, IN_BODIES),
    ),
)
def test_a_fault_that_passes_costs_one_request(
    use: Use, fault: Fault, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
) -> None:
    meet_once(use, fault, store, proxy, bucket, large)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("use", "fault"),
    meetings(
        ((READS[2], LISTINGS[0], *WRITES, *ENDS, DELETE), some(CUTS, "answer-lost", "answer-500")),
        (READS[2:], some(IN_ANSWERS, "download-cut")),
        ((LISTINGS[0], *ENDS), some(IN_LISTINGS, "download-none")),
    ),
)
def test_another_server_makes_no_difference(
    use: Use, fault: Fault, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
) -> None:
    meet_once(use, fault, store, proxy, bucket, large)


@pytest.mark.parametrize(
    ("use", "fault"),
    meetings(
        (USES, some(REFUSALS, "slow-down") | some(CUTS, "reset", "answer-lost")),
        (READS[:1], STALL),
        ((READS[0], READS[2]), some(IN_ANSWERS, "download-reset", "download-cut")),
        (WRITES, some(IN_BODIES, "upload-reset", "upload-flip")),
        (WRITES[1:], some(IN_BODIES, "upload-stall")),
    ),
)
def test_a_fault_that_stays_ends_the_use_after_its_attempts(
    use: Use, fault: Fault, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
) -> None:
    proxy.inject(replace(fault, at=0), operation=use.request, where=is_first, times=math.inf)
    start = time.monotonic()
    with pytest.raises(StoreError, match=rf"(small|large|new|{bucket.url}).* \(tried 3 times\)$") as caught:
        use.do(for_fault(store, fault), large)
    assert time.monotonic() - start < ATTEMPTS * 20 * STALL_SECONDS
    assert not isinstance(caught.value, ObjectNotFoundError)
    check_text(caught.value)
    assert count_faults(proxy) == ATTEMPTS
    done = fault.stage == "answer" and use.request in ("PutObject", "CompleteMultipartUpload")
    deleted = fault.stage == "answer" and use is DELETE
    check_objects(bucket, new=use.written if done else OLD, **({"small": b""} if deleted else {}))
    assert len(bucket.uploads()) == (ATTEMPTS if in_vain(use, fault) else 0)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
@pytest.mark.parametrize("final", FINAL)
def test_what_no_second_try_mends_ends_at_once(
    final: str, use: Use, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
) -> None:
    fault, advice = FINAL[final]
    proxy.inject(fault, operation=use.request, times=math.inf)
    start = time.monotonic()
    with pytest.raises(StoreError, match=advice) as caught:
        use.do(store, large)
    assert time.monotonic() - start < 5
    assert not isinstance(caught.value, ObjectNotFoundError)
    check_text(caught.value)
    asked = [(request.range, request.query.get("partNumber")) for request in proxy.requests if request.fault]
    most = 2 if final == "expired" else 1  # credentials may have been renewed
    assert all(asked.count(part) <= most for part in asked)
    check_objects(bucket, new=OLD)
    assert bucket.uploads() == []


class TestWhatMayBeTakenForDone:
    def test_an_upload_completed_while_it_answered_an_error_is_done(
        self, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
    ) -> None:
        error = Fault("answer", "refuse", status=200, code="InternalError")
        proxy.inject(error, operation="CompleteMultipartUpload")
        store.write("new", large)
        check_objects(bucket, new=LARGE)

    def test_an_upload_that_is_gone_after_a_lost_answer_is_done(
        self, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
    ) -> None:
        proxy.inject(Fault("answer", "close"), operation="CompleteMultipartUpload")
        gone = Fault("request", "refuse", status=404, code="NoSuchUpload")
        proxy.inject(gone, operation="CompleteMultipartUpload")
        store.write("new", large)
        check_objects(bucket, new=LARGE)

    def test_an_answer_that_says_nothing_does_not_complete_an_upload(
        self, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
    ) -> None:
        nothing = Fault("request", "refuse", status=200)
        proxy.inject(nothing, operation="CompleteMultipartUpload", times=math.inf)
        with pytest.raises(StoreError, match=r"tried 3 times"):
            store.write("new", large)
        check_objects(bucket, new=OLD)

    def test_a_listing_that_says_nothing_is_not_empty(self, store: S3Store, proxy: FaultProxy) -> None:
        proxy.inject(Fault("download", "close"), operation="ListObjects", times=math.inf)
        with pytest.raises(StoreError, match=r"tried 3 times"):
            list(store.list())

    def test_an_upload_that_is_gone_is_not_done_because_an_object_of_its_size_was_there(
        self, store: S3Store, proxy: FaultProxy, bucket: Bucket, large: Path
    ) -> None:
        old = bytes(len(LARGE))
        store.write("new", old)
        proxy.inject(Fault("request", "reset"), operation="CompleteMultipartUpload")
        gone = Fault("request", "refuse", status=404, code="NoSuchUpload")
        proxy.inject(gone, operation="CompleteMultipartUpload")
        with pytest.raises(StoreError, match=r"new .*write it again"):
            store.write("new", large)
        check_objects(bucket, new=old)


class TestWhatIsSlowButMoves:
    @pytest.mark.parametrize("use", [READS[2], WRITES[1]], ids=lambda use: use.name)
    def test_a_slow_connection_is_no_stall(
        self, use: Use, store: S3Store, bucket: Bucket, large: Path
    ) -> None:
        with FaultProxy(bucket.server.endpoint, rate=len(LARGE) / 3) as slow:
            settings = replace(store.settings, endpoint_url=slow.url, stall_timeout_seconds=2)
            use.check(use.do(replace(store, settings=settings), large), bucket)
            assert len(slow.requests) == use.requests

    def test_a_trickle_that_stays_is_given_up(
        self, store: S3Store, proxy: FaultProxy, bucket: Bucket
    ) -> None:
        trickle = Fault("download", "trickle", rate=100)
        proxy.inject(trickle, operation="GetObject", times=math.inf)
        start = time.monotonic()
        with pytest.raises(StoreError, match="small"):
            for_fault(store, trickle).read("small")
        assert ATTEMPTS * STALL_SECONDS < time.monotonic() - start < ATTEMPTS * 20 * STALL_SECONDS
        assert count_faults(proxy) == ATTEMPTS
