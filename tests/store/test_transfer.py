"""A transfer copies objects, verified, a bounded number at a time; the first error ends it."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchkit.errors import CorruptError, ObjectNotFoundError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.store.base import ObjectInfo
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore
from benchkit.store.transfer import TransferItem, TransferReport, copy_objects


class CountedStore(MemoryStore):
    """A store that counts the objects being streamed at once, notes writes, and can hold readers back."""

    def __init__(self) -> None:
        super().__init__()
        self.going = threading.Event()
        self.going.set()
        self.streaming = self.most_streaming = 0
        self.streamed: list[str] = []
        self.written: list[str] = []
        self._count = threading.Lock()

    def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
        with self._count:
            self.streaming += 1
            self.most_streaming = max(self.most_streaming, self.streaming)
            self.streamed.append(name)
        try:
            self.going.wait(10)
            yield from super().stream(name, **part)
        finally:
            with self._count:
                self.streaming -= 1

    def write(self, name: str, source: bytes | Path) -> None:
        with self._count:
            self.written.append(name)
        super().write(name, source)


def fill(store: MemoryStore | LocalStore, count: int, *, size: int = 100) -> list[TransferItem]:
    items = []
    for number in range(count):
        data = (b"%d " % number * size)[:size]
        store.write(f"chunks/{number}", data)
        items.append(TransferItem(name=f"chunks/{number}", size=len(data), digest=digest_bytes(data)))
    return items


def contents(store: MemoryStore | LocalStore) -> dict[str, bytes]:
    return {info.name: store.read(info.name) for info in store.list()}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_object_arrives_as_it_is(tmp_path: Path, workers: int) -> None:
    source, target = LocalStore(tmp_path / "source"), LocalStore(tmp_path / "target")
    items = fill(source, 20, size=70_000) + fill(source, 0)
    source.write("empty", b"")
    items.append(TransferItem(name="empty", size=0, digest=digest_bytes(b"")))
    told: list[int] = []
    report = copy_objects(source, target, items, workers=workers, on_progress=told.append)
    assert report == TransferReport(sent=21, bytes_sent=20 * 70_000)
    assert contents(target) == contents(source)
    assert sum(told) == 20 * 70_000
    assert len(told) == 21


def test_nothing_to_copy_is_no_error() -> None:
    assert copy_objects(MemoryStore(), MemoryStore(), []) == TransferReport(sent=0, bytes_sent=0)


def test_an_object_costs_one_write_and_replaces_what_is_there() -> None:
    class WrittenAlone(CountedStore):
        def stat(self, name: str) -> ObjectInfo | None:
            raise AssertionError("nothing is asked of the target")

    source, target = CountedStore(), WrittenAlone()
    items = fill(source, 3)
    target.write("chunks/1", b"x" * 100)
    target.written.clear()
    assert copy_objects(source, target, items) == TransferReport(sent=3, bytes_sent=300)
    assert sorted(target.written) == sorted(source.streamed) == ["chunks/0", "chunks/1", "chunks/2"]
    assert contents(target) == contents(source)


@pytest.mark.parametrize("corrupt", [b"x" * 100, b"0 " * 49, b"0 " * 51, b""])
def test_an_object_that_is_not_what_it_should_be_is_not_written(corrupt: bytes) -> None:
    source, target = MemoryStore(), CountedStore()
    items = fill(source, 1)
    source.write("chunks/0", corrupt)
    with pytest.raises(CorruptError, match="chunks/0 in memory:// is corrupt"):
        copy_objects(source, target, items)
    assert target.written == []


def test_a_missing_object_is_not_found() -> None:
    missing = TransferItem(name="missing", size=1, digest=digest_bytes(b"x"))
    with pytest.raises(ObjectNotFoundError, match="missing"):
        copy_objects(MemoryStore(), MemoryStore(), [missing])


@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_error_stops_the_rest(workers: int) -> None:
    source, target = CountedStore(), CountedStore()
    items = fill(source, 200)
    source.write("chunks/5", b"broken")
    with pytest.raises(CorruptError, match="chunks/5"):
        copy_objects(source, target, items, workers=workers)
    assert "chunks/5" not in target.written
    assert len(source.streamed) <= 6 + 4 * workers
    assert source.streaming == 0


def test_an_error_of_the_list_of_objects_stops_the_rest() -> None:
    source, target = CountedStore(), MemoryStore()
    items = fill(source, 3)

    def broken() -> Iterator[TransferItem]:
        yield from items
        raise StoreError("the list broke off")

    with pytest.raises(StoreError, match="broke off"):
        copy_objects(source, target, broken(), workers=2)
    assert source.streaming == 0


def test_an_error_of_the_progress_report_stops_the_rest() -> None:
    source = CountedStore()

    def interrupt(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_objects(source, MemoryStore(), fill(source, 100), workers=2, on_progress=interrupt)
    assert len(source.streamed) <= 10


def test_objects_in_flight_and_waiting_are_bounded_by_the_workers() -> None:
    source, target = CountedStore(), MemoryStore()
    data = b"the same"
    source.write("a", data)
    drawn = 0

    def endless() -> Iterator[TransferItem]:
        nonlocal drawn
        for number in itertools.count():
            drawn += 1
            if drawn > 12:
                source.going.set()
            if drawn > 500:
                return
            name = f"copy/{number}"
            source.write(name, data)
            yield TransferItem(name=name, size=len(data), digest=digest_bytes(data))

    source.going.clear()
    release = threading.Timer(0.5, source.going.set)
    release.start()
    before_release: list[int] = []
    watch = threading.Timer(0.3, lambda: before_release.append(drawn))
    watch.start()
    assert copy_objects(source, target, endless(), workers=3).sent == 500
    release.join()
    watch.join()
    assert source.most_streaming == 3
    assert before_release[0] <= 7
    assert len(list(target.list())) == 500


def test_a_stop_is_noticed_in_the_middle_of_an_object() -> None:
    class Endless(MemoryStore):
        blocks = 0

        def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
            if name == "bad":
                yield b"bad"
                return
            while self.blocks < 1_000_000:
                self.blocks += 1
                yield b""

    source, target = Endless(), MemoryStore()
    items = [TransferItem(name=name, size=9, digest=digest_bytes(b"")) for name in ("endless", "bad")]
    with pytest.raises(CorruptError, match="bad"):
        copy_objects(source, target, items, workers=2)
    assert source.blocks < 1_000_000


SENDER = """
import sys, time
from pathlib import Path
from benchkit.format.digests import digest_bytes
from benchkit.store.memory import MemoryStore
from benchkit.store.transfer import TransferItem, copy_objects

class Stalled(MemoryStore):
    def stream(self, name, **part):
        yield b"x" * 1_000_000
        print("half", flush=True)
        time.sleep(60)

copy_objects(Stalled(), MemoryStore(), [TransferItem(name="a", size=2_000_000, digest=digest_bytes(b""))])
"""


def test_a_killed_transfer_leaves_no_temporary_file(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SENDER], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == b"half\n"
        sender.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_disk_is_a_store_error() -> None:
    source, target = MemoryStore(), CountedStore()
    items = fill(source, 1, size=3_000_000)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StoreError, match="make room in"):
            copy_objects(source, target, items)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.written == []


def test_an_object_longer_than_it_should_be_is_not_read_to_its_end() -> None:
    class Endless(MemoryStore):
        blocks = 0

        def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
            while self.blocks < 1000:
                self.blocks += 1
                yield b"x" * 10

    source, target = Endless(), CountedStore()
    item = TransferItem(name="a", size=25, digest=digest_bytes(b""))
    with pytest.raises(CorruptError, match="got more"):
        copy_objects(source, target, [item])
    assert source.blocks == 3
    assert target.written == []
