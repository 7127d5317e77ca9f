"""Two stores as one: chunks that the front lacks come from behind, and nothing else does."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from store.contract import StoreContract

from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.settings import S3Settings, Settings
from benchkit.store.base import Store
from benchkit.store.layered import LayeredStore, open_staging
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore

CHUNK = "datasets/train/chunks/aa.tar"
OTHERS = (
    "benchkit.json",
    "datasets/train/versions/1-aa.json",
    "datasets/train/uploads/aa.json",
    "datasets/chunks/aa",
    "code/train/chunks/aa.tar",
)


class TestLayeredStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LayeredStore:
        return LayeredStore(LocalStore(tmp_path / "front"), partial(LocalStore, tmp_path / "behind"))


def refuse() -> NoReturn:
    raise StoreError("the other store cannot be opened")


@pytest.fixture
def behind() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def layer(behind: MemoryStore) -> Callable[[], LayeredStore]:
    return lambda: LayeredStore(MemoryStore(), lambda: behind)


def test_a_chunk_that_the_front_lacks_is_read_from_behind(
    behind: MemoryStore, layer: Callable[[], LayeredStore]
) -> None:
    store = layer()
    behind.write(CHUNK, b"0123456789")
    assert store.read(CHUNK, start=2, length=3) == b"234"
    assert b"".join(store.stream(CHUNK)) == b"0123456789"
    assert store.stat(CHUNK) == behind.stat(CHUNK)
    assert list(store.list()) == []


def test_a_chunk_of_the_front_comes_first(behind: MemoryStore, layer: Callable[[], LayeredStore]) -> None:
    store = layer()
    behind.write(CHUNK, b"behind")
    store.write(CHUNK, b"front!")
    assert store.read(CHUNK) == b"".join(store.stream(CHUNK)) == b"front!"
    assert behind.read(CHUNK) == b"behind"
    store.delete(CHUNK)
    assert store.read(CHUNK) == behind.read(CHUNK) == b"behind"


@pytest.mark.parametrize("name", OTHERS)
def test_all_but_chunks_is_the_fronts_alone(
    behind: MemoryStore, layer: Callable[[], LayeredStore], name: str
) -> None:
    store = layer()
    behind.write(name, b"data")
    assert store.stat(name) is None
    with pytest.raises(ObjectNotFoundError):
        store.read(name)
    with pytest.raises(ObjectNotFoundError):
        list(store.stream(name))


def test_the_other_store_is_opened_when_a_chunk_is_missing_and_not_before() -> None:
    store: Store = LayeredStore(MemoryStore(), refuse)
    store.write(CHUNK, b"data")
    assert store.read(CHUNK) == b"".join(store.stream(CHUNK)) == b"data"
    assert store.stat(CHUNK)
    assert store.stat("benchkit.json") is None
    store.delete(CHUNK)
    with pytest.raises(StoreError, match="cannot be opened"):
        store.stat(CHUNK)


def test_staging_is_before_the_projects_remote_in_a_pickle_too(tmp_path: Path) -> None:
    settings = Settings(
        project=tmp_path,
        project_id="i",
        remote="store",
        cache_dir=tmp_path,
        cache_limit_bytes=1,
        s3=S3Settings(),
    )
    LocalStore(tmp_path / "store").write(CHUNK, b"data")
    store = open_staging(settings)
    assert store.url == LocalStore(settings.staging).url
    assert store.read(CHUNK) == b"data"
    assert pickle.loads(pickle.dumps(store)).read(CHUNK) == b"data"  # noqa: S301


@pytest.mark.processes
def test_a_process_forked_while_a_thread_opens_the_other_store_opens_its_own(behind: MemoryStore) -> None:
    behind.write(CHUNK, b"0123456789")
    opening, go_on = threading.Event(), threading.Event()

    def open_slowly() -> MemoryStore:
        opening.set()
        go_on.wait(60)
        return behind

    thread = threading.Thread(target=LayeredStore(MemoryStore(), open_slowly).read, args=[CHUNK])
    thread.start()
    opening.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(10)
        read = LayeredStore(MemoryStore(), lambda: behind).read(CHUNK)
        os._exit(read != b"0123456789")
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
