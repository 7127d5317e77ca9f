"""A whole upload to S3 through a bad connection: what stands there is right, or is not there."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault, Request, first_time
from support.making import publish_samples
from support.s3_servers import Bucket, Server, make_bucket
from support.s3_stores import PREFIX, open_bucket

from benchkit.data.catalogue import list_versions
from benchkit.data.upload import UploadReport, upload
from benchkit.errors import StoreError
from benchkit.store.local import LocalStore

CHUNKS, PER_CHUNK = 5, 4
ONCE = {
    "slow-down": Fault("request", "refuse", status=503, code="SlowDown"),
    "reset": Fault("request", "reset"),
    "answer-lost": Fault("answer", "close"),
    "cut-upload": Fault("upload", "reset"),
    "cut-answer": Fault("download", "close"),
    "flipped-upload": Fault("upload", "flip"),
}

pytestmark = pytest.mark.usefixtures("s3_environment")


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """Return a store with one version of a dataset."""
    folder = tmp_path_factory.mktemp("project")
    publish_samples(folder, "train", CHUNKS * PER_CHUNK, per_chunk=PER_CHUNK, size=5000)
    return LocalStore(folder / "store")


@pytest.fixture
def proxy(swift: Server) -> Iterator[FaultProxy]:
    with FaultProxy(swift.endpoint) as proxy:
        yield proxy


class Remote:
    """A new bucket behind a proxy, to which the dataset is uploaded, one object at a time."""

    def __init__(self, swift: Server, proxy: FaultProxy, staging: LocalStore) -> None:
        self.bucket: Bucket = make_bucket(swift)
        self.store = open_bucket(self.bucket, endpoint=proxy.url, attempts=3)
        self._staging = staging

    def clear(self) -> None:
        """Remove everything."""
        for name in self.bucket.objects():
            self.bucket.client.delete_object(Bucket=self.bucket.name, Key=name)

    def upload(self) -> UploadReport:
        return upload(self._staging, self.store, "train", workers=1)

    def check_objects(self, *, whole: bool) -> None:
        """See to it that what is there is what staging holds, and all of it or without the version."""
        staged = {f"{PREFIX}/{info.name}": self._staging.read(info.name) for info in self._staging.list()}
        stored = self.bucket.objects()
        there = {name: data for name, data in stored.items() if "/uploads/" not in name}
        assert there.items() <= staged.items()
        assert self.bucket.uploads() == []
        assert (stored == staged) if whole else not list_versions(self.store, "train")


@pytest.fixture
def remote(swift: Server, proxy: FaultProxy, staging: LocalStore) -> Remote:
    return Remote(swift, proxy, staging)


def is_chunk(request: Request) -> bool:
    return "/chunks/" in request.key


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_though_every_request_fails_once_the_upload_arrives_whole_and_each_costs_one_more(
    fault: Fault, remote: Remote, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchkit.store.retry.BASE_SECONDS", 0.02)
    remote.upload()  # for the first time it looks for the bucket too
    remote.clear()
    proxy.forget()
    remote.upload()
    undisturbed = len(proxy.requests)
    remote.clear()
    proxy.forget()
    proxy.inject(fault, where=first_time(), times=math.inf)
    remote.upload()
    remote.check_objects(whole=True)
    # What says that there is no marker yet says so in its first line.
    cut_for_nothing = [r for r in proxy.requests if r.fault and fault.stage == "download" and r.status == 404]
    faults = sum(request.fault is not None for request in proxy.requests) - len(cut_for_nothing)
    assert faults >= (2 if fault.stage == "download" else CHUNKS + 3)
    assert len(proxy.requests) == undisturbed + faults


@pytest.mark.parametrize(
    "fault",
    [
        ONCE["slow-down"],
        ONCE["flipped-upload"],
        Fault("request", "refuse", status=400, code="ExpiredToken"),
        Fault("request", "refuse", status=403, code="AccessDenied"),
    ],
    ids=lambda fault: fault.code or fault.deed,
)
def test_an_upload_that_was_cut_off_goes_on_and_sends_nothing_twice(
    fault: Fault, remote: Remote, proxy: FaultProxy
) -> None:
    proxy.inject(fault, operation="PutObject", where=is_chunk, skip=2, times=math.inf)
    with pytest.raises(StoreError):
        remote.upload()
    remote.check_objects(whole=False)
    assert not any("/versions/" in request.key for request in proxy.requests if request.method == "PUT")
    proxy.forget()
    report = remote.upload()
    assert (report.chunks_sent, report.chunks_skipped) == (CHUNKS - 2, 2)
    assert sum(map(is_chunk, (r for r in proxy.requests if r.operation == "PutObject"))) == CHUNKS - 2
