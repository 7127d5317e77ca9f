"""Training from S3 through a bad connection: every sample is right, or there is an error."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fault_proxy import FaultProxy
from support.faults import Fault, first_time
from support.making import content, publish_samples
from support.s3_servers import Bucket, Server, make_bucket
from support.s3_stores import PREFIX, open_bucket

from benchkit import IterableChunk, LoaderOptions, get_dataset
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.errors import CorruptError, StallError, StoreError
from benchkit.store.local import LocalStore

SAMPLES, PER_CHUNK = 24, 4


class Checked(IterableChunk):
    """Yields labels, the contents of whose files are right."""

    def _data_iterator(self) -> Iterator[Any]:
        for label, files in super()._data_iterator():
            assert files[0].read() == content(label, 3000)
            yield label


@pytest.fixture(scope="module")
def bucket(swift: Server, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """Return a bucket in which the dataset `train` is."""
    folder, bucket = tmp_path_factory.mktemp("project"), make_bucket(swift)
    publish_samples(folder, "train", SAMPLES, per_chunk=PER_CHUNK, size=3000, codec="zstd")
    for info in (store := LocalStore(folder / "store")).list():
        key = f"{PREFIX}/{info.name}"
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=store.read(info.name))
    return bucket


@pytest.fixture
def proxy(
    project: Path, bucket: Bucket, s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Return a proxy before the project's remote."""
    with FaultProxy(bucket.server.endpoint) as proxy:
        (project / "benchkit.toml").write_text(
            f'[project]\nid = "trial"\nremote = "s3://{bucket.name}/{PREFIX}"\n'
            f'[s3]\nendpoint_url = "{proxy.url}"\nattempts = 3\n'
        )
        monkeypatch.setattr("benchkit.store.retry.BASE_SECONDS", 0.02)
        yield proxy


def train(workers: int = 0, timeout_seconds: float = 100) -> list[int]:
    """Return the labels of one pass."""
    options = LoaderOptions(timeout_seconds=timeout_seconds)
    loader = get_dataset(Checked, True, "train", 5, workers, loader=options)
    return list(itertools.chain.from_iterable(batch.tolist() for batch in loader))[:SAMPLES]


def empty_cache(project: Path) -> None:
    for file in (project.parent / "cache").rglob("*.tar"):
        file.unlink()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("request", "refuse", status=503, code="SlowDown"),
        Fault("answer", "close"),
        Fault("download", "reset", at=500),
        Fault("download", "close", at=500),
    ],
    ids=lambda fault: f"{fault.stage}-{fault.deed}",
)
def test_though_every_request_fails_once_the_samples_are_right(
    fault: Fault, project: Path, proxy: FaultProxy
) -> None:
    assert train() == list(range(SAMPLES))
    undisturbed = len(proxy.requests)
    empty_cache(project)
    proxy.forget()
    proxy.inject(fault, where=first_time(), times=math.inf)
    assert train() == list(range(SAMPLES))
    faults = sum(request.fault is not None for request in proxy.requests)
    assert faults >= SAMPLES / PER_CHUNK
    assert len(proxy.requests) == undisturbed + faults


@pytest.mark.parametrize("workers", [0, 2])
def test_a_chunk_with_a_flipped_bit_is_fetched_again(workers: int, project: Path, proxy: FaultProxy) -> None:
    flip = Fault("download", "flip", at=700)
    proxy.inject(flip, where=lambda request: "/chunks/" in request.key, times=1)
    assert train(workers) == list(range(SAMPLES))
    assert sum(request.fault is not None for request in proxy.requests) == 1


def test_a_chunk_that_is_never_right_is_an_error_and_not_kept(project: Path, proxy: FaultProxy) -> None:
    flip = Fault("download", "flip", at=700)
    proxy.inject(flip, where=lambda request: "/chunks/" in request.key, times=math.inf)
    with pytest.raises(CorruptError, match="bench-kit verify train"):
        train()
    assert list((project.parent / "cache").rglob("*.tar")) == []


@pytest.mark.parametrize("at", [0, 100, 300])
def test_a_manifest_with_a_flipped_bit_is_read_again_and_in_the_end_refused(
    at: int, bucket: Bucket, proxy: FaultProxy
) -> None:
    store = open_bucket(bucket, endpoint=proxy.url)
    version = find_version(store, "train")
    flip = Fault("download", "flip", at=at)
    proxy.inject(flip, operation="GetObject")
    assert read_manifest(store, version).samples == SAMPLES
    proxy.inject(flip, operation="GetObject", times=math.inf)
    with pytest.raises(CorruptError, match="train"):
        read_manifest(store, version)


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "AccessDenied", "s3:GetObject"),
        (400, "ExpiredToken", "expired"),
        (404, "NoSuchBucket", "no bucket"),
    ],
)
def test_what_no_second_try_mends_ends_the_pass_at_once(
    status: int, code: str, advice: str, proxy: FaultProxy
) -> None:
    refusal = Fault("request", "refuse", status=status, code=code)
    proxy.inject(refusal, where=lambda request: "/chunks/" in request.key, times=math.inf)
    with pytest.raises(StoreError, match=advice):
        train()


@pytest.mark.parametrize(
    ("stage", "objects", "workers"),
    [
        ("download", "/chunks/", 0),
        ("download", "/chunks/", 2),
        ("request", "/chunks/", 2),
        ("request", "/versions/", 0),
    ],
)
def test_a_store_that_stops_answering_is_an_error_in_time_that_names_it_with_the_stacks(
    stage: Any,
    objects: str,
    workers: int,
    bucket: Bucket,
    proxy: FaultProxy,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stall = Fault(stage, "stall", at=500, seconds=60)
    proxy.inject(stall, where=lambda request: objects in request.key, times=math.inf)
    started = time.monotonic()
    with pytest.raises(StallError, match=f"s3://{bucket.name}.* for 2 s"):
        train(workers, timeout_seconds=2)
    assert time.monotonic() - started < 2 + 5
    assert "(most recent call first)" in capfd.readouterr().err
    proxy.forget()
    assert train(workers) == list(range(SAMPLES))
