"""The S3 store keeps the contract on two servers; large objects, processes, memory and what is its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from store.contract import StoreContract
from support.s3_servers import SECRET_KEY, Bucket, Server
from support.s3_stores import MIB, open_bucket, watch

from benchkit.settings import S3Settings
from benchkit.store import s3_client
from benchkit.store.base import ObjectInfo, Sweepable
from benchkit.store.s3 import S3Store
from benchkit.store.s3_read import PARTS_AHEAD

LARGE = random.Random(7).randbytes(23 * MIB + 3)


class TestSwift(StoreContract):
    @pytest.fixture
    def store(self, swift_bucket: Bucket) -> S3Store:
        return S3Store.of(swift_bucket.url, S3Settings(endpoint_url=swift_bucket.server.endpoint))


class TestMoto(StoreContract):
    @pytest.fixture
    def store(self, moto_bucket: Bucket) -> S3Store:
        return S3Store.of(moto_bucket.url, S3Settings(endpoint_url=moto_bucket.server.endpoint))


def test_a_large_object_is_written_in_parts_and_read_back(
    store: S3Store, bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    requests = watch(store)
    for source in (LARGE, tmp_path / "file"):
        store.write("large", source)
        assert b"".join(store.stream("large")) == LARGE
        assert store.read("large") == LARGE
        assert store.read("large", start=3 * MIB + 1, length=15 * MIB) == LARGE[3 * MIB + 1 : 18 * MIB + 1]
        assert bucket.get("some/prefix/large") == LARGE
        assert store.stat("large") == next(store.list())
        store.delete("large")
        assert bucket.objects() == {}
    assert bucket.uploads() == []
    assert sum("partNumber=" in request.url for request in requests) == 2 * 5


@pytest.mark.usefixtures("small_parts")
def test_reading_takes_a_few_parts_of_memory_and_writing_less(swift_bucket: Bucket, tmp_path: Path) -> None:
    store = open_bucket(swift_bucket)
    with open(tmp_path / "file", "wb") as file:
        file.truncate(100 * MIB)
    store.write("warm", b"data")
    tracemalloc.start()
    try:
        store.write("large", tmp_path / "file")
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
        tracemalloc.reset_peak()
        size = 0
        for block in store.stream("large"):
            size += len(block)
            time.sleep(0.001)  # so that what is fetched ahead can get ahead
        assert size == 100 * MIB
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < (PARTS_AHEAD + 2) * 4 * MIB
    finally:
        tracemalloc.stop()


def use_in_child(store: S3Store, done: Any) -> None:
    assert store._client is not store._clients[os.getppid()]
    for turn in range(20):
        store.write(f"child/{turn}", b"%d" % turn)
        assert store.read(f"child/{turn}") == b"%d" % turn
        assert store.read("parent") == b"parent"
    done.put(sum(len(block) for block in store.stream("large")))
    done.close()
    done.join_thread()


@pytest.mark.processes
def test_a_forked_child_and_its_parent_use_the_store_at_once(swift_bucket: Bucket) -> None:
    store = open_bucket(swift_bucket)
    store.write("parent", b"parent")
    store.write("large", LARGE)
    stream = store.stream("large")
    first = next(stream)  # connections are in use
    context = multiprocessing.get_context("fork")
    done: Any = context.Queue()
    children = [context.Process(target=use_in_child, args=(store, done)) for _ in range(2)]
    for child in children:
        child.start()
    assert first + b"".join(stream) == LARGE
    for _ in range(20):
        assert store.read("parent") == b"parent"
    assert [done.get(timeout=60) for _ in children] == [len(LARGE)] * 2
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(list(store.list("child/"))) == 20


@pytest.mark.processes
def test_a_fork_waits_for_a_client_that_another_thread_makes(
    swift_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, began, go_on = open_bucket(swift_bucket), threading.Event(), threading.Event()
    find_origin = s3_client._find_origin

    def find_slowly(settings: S3Settings) -> Any:
        began.set()
        assert go_on.wait(60)
        return find_origin(settings)

    monkeypatch.setattr(s3_client, "_find_origin", find_slowly)
    child = multiprocessing.get_context("fork").Process(target=lambda: list(store.list()))
    connecting = threading.Thread(target=lambda: list(store.list()))
    forking = threading.Thread(target=child.start)
    connecting.start()
    assert began.wait(60)
    forking.start()
    forking.join(0.3)
    assert child.pid is None, "it was forked in the midst"
    go_on.set()
    connecting.join()
    forking.join()
    child.join(60)
    assert child.exitcode == 0


def test_threads_that_begin_at_once_share_one_client(swift_bucket: Bucket) -> None:
    store = open_bucket(swift_bucket)
    barrier = threading.Barrier(8)

    def use(number: int) -> int:
        barrier.wait()
        store.write(f"a/{number}", b"data")
        return id(store._client._client)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(use, range(8)))) == 1
    assert len(list(store.list())) == 8


def test_a_store_in_use_is_equal_to_its_copies_and_holds_no_secret(store: S3Store) -> None:
    store.write("a", b"data")
    data = pickle.dumps(store)
    again = pickle.loads(data)  # noqa: S301
    assert again == store
    assert hash(again) == hash(store)
    assert again._clients == {}
    assert SECRET_KEY.encode() not in data
    assert SECRET_KEY not in repr(store) + store.url


def test_a_listing_goes_over_its_pages_and_leaves_out_what_is_no_object_of_the_store(
    moto_bucket: Bucket,
) -> None:
    store = open_bucket(moto_bucket)
    names = [f"a/{number:04}" for number in range(1005)]
    strange = [
        "some/prefix/",
        "some/prefix/a//b",
        "some/prefix/../c",
        "some/prefix2/a",
        "other",
        "some/prefix",
    ]
    keys = [*strange, *(f"some/prefix/{name}" for name in names)]

    def put(key: str) -> None:
        moto_bucket.client.put_object(Bucket=moto_bucket.name, Key=key, Body=b"12")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, keys))
    requests = watch(store)
    assert [(info.name, info.size) for info in store.list()] == [(name, 2) for name in names]
    assert len(requests) == 2
    assert [info.name for info in store.list("a/000")] == names[:10]


def test_unfinished_uploads_below_the_prefix_are_told_and_discarded(bucket: Bucket, swift: Server) -> None:
    store = open_bucket(bucket)
    assert isinstance(store, Sweepable)
    begin = time.time()
    for key in ("some/prefix/a/b", "some/prefix/a/b", "some/prefix/ü c", "some/prefix2/a", "other"):
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    assert list(store.list()) == []
    found = list(store.unfinished())
    assert sorted(one.name for one in found) == ["a/b", "a/b", "ü c"]
    assert len({one.key for one in found}) == 3
    if bucket.server == swift:  # moto tells one and the same day for ever
        assert all(begin - 2 <= one.modified <= time.time() + 2 for one in found)
    for one in found:
        store.discard(one)
        store.discard(one)
    assert list(store.unfinished()) == []
    assert sorted(key for key, _ in bucket.uploads()) == ["other", "some/prefix2/a"]


def test_a_store_without_a_prefix_is_the_whole_bucket(bucket: Bucket) -> None:
    store = S3Store(bucket.name, "", S3Settings(endpoint_url=bucket.server.endpoint))
    store.write("a/b", b"data")
    assert bucket.objects() == {"a/b": b"data"}
    assert list(store.list()) == [store.stat("a/b")]
    assert isinstance(store.stat("a/b"), ObjectInfo)
