"""Chunks in a real store that notes every fetch, and processes that really fork."""

import multiprocessing
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import zstandard
from support.noted_store import NotedStore

from benchkit.format.digests import digest_bytes
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry, IndexPlace
from benchkit.stream.cache import ChunkCache

FORK = multiprocessing.get_context("fork")


def chunk_entry(tar: bytes, stored: bytes, codec: str) -> ChunkEntry:
    """The manifest's entry for any bytes; the cache does not look into a tar."""
    return ChunkEntry(
        stored=digest_bytes(stored),
        stored_bytes=len(stored),
        tar=digest_bytes(tar),
        tar_bytes=len(tar),
        codec=codec,
        level=3 if codec == "zstd" else 0,
        library="",
        samples=1,
        dead=b"",
        index=IndexPlace(object=None, offset=0, length=0, tar_offset=0, tar_length=0, digest="0" * 64),
    )


def compress(tar: bytes, frame_bytes: int = 1 << 16) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3)
    return b"".join(
        compressor.compress(tar[start : start + frame_bytes]) for start in range(0, len(tar), frame_bytes)
    )


@dataclass(frozen=True)
class Item:
    """One chunk in the shop, and the tar that it must give."""

    name: str
    chunk: ChunkEntry
    tar: bytes
    what: str

    @property
    def size(self) -> int:
        return len(self.tar)


class Shop:
    """A dataset `train` of chunks in a store, and caches that read from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = NotedStore(folder / "store")
        self.cache_folder = folder / "cache"

    def slow(self, pause_seconds: float, block_bytes: int = 4096) -> NotedStore:
        """The same store, with a pause before every block."""
        return NotedStore(self.folder / "store", pause_seconds=pause_seconds, block_bytes=block_bytes)

    def add(self, tar: bytes, *, codec: str = "none", stored: bytes | None = None) -> Item:
        """Put a chunk into the store; `stored` stands there in place of its right bytes."""
        right = compress(tar) if codec == "zstd" else tar
        chunk = chunk_entry(tar, right, codec)
        name = chunk_name("train", chunk.stored, codec)
        self.store.write(name, right if stored is None else stored)
        return Item(name, chunk, tar, f"chunk {chunk.stored[:4]}… of train@1")

    def add_many(self, count: int, size: int, *, codec: str = "none") -> list[Item]:
        return [self.add(number.to_bytes(4, "big") * (size // 4), codec=codec) for number in range(count)]

    def cache(self, limit_bytes: int = 1 << 30) -> ChunkCache:
        return ChunkCache(folder=self.cache_folder, limit_bytes=limit_bytes)

    def open(self, cache: ChunkCache, item: Item, *, store=None, **options):
        return cache.open(store or self.store, item.name, item.chunk, what=item.what, **options)

    def check(self, cache: ChunkCache, item: Item, **options) -> None:
        """Open the chunk, and compare every byte."""
        with self.open(cache, item, **options) as opened:
            assert opened.read(0, item.size) == item.tar

    def files(self) -> set[str]:
        """The names of the files in the cache, without the lock."""
        return {path.name for path in self.cache_folder.rglob("*") if path.is_file()} - {"cache.lock"}

    def cached(self, items: list[Item]) -> list[int]:
        """Which of the items the cache holds."""
        return [number for number, item in enumerate(items) if f"{item.chunk.tar}.tar" in self.files()]

    def restock(self, item: Item, stored: bytes) -> Item:
        """Put other bytes into the item's place, and let the manifest call them right."""
        self.store.write(item.name, stored)
        return self.lying(item, stored=digest_bytes(stored), stored_bytes=len(stored))

    def lying(self, item: Item, **changes: object) -> Item:
        """The item, with a manifest that says something else of it."""
        return replace(item, chunk=replace(item.chunk, **changes))


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


class Forked:
    """A function that runs in a forked process, and what came of it."""

    def __init__(self, function, *arguments) -> None:
        self._receiver, sender = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self._run, args=(sender, function, arguments))
        self.process.start()
        sender.close()

    @staticmethod
    def _run(sender, function, arguments) -> None:
        try:
            sender.send((True, function(*arguments)))
        except BaseException:
            sender.send((False, traceback.format_exc()))
            raise

    def result(self, timeout_seconds: float = 60):
        """What the function returned; what it raised fails the test here."""
        assert self._receiver.poll(timeout_seconds), "the process gave no result in time"
        done, value = self._receiver.recv()
        self.process.join(timeout_seconds)
        assert done, value
        return value

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@pytest.fixture
def fork():
    """Start functions in forked processes; those that still run at the end are killed."""
    started: list[Forked] = []

    def start(function, *arguments) -> Forked:
        started.append(Forked(function, *arguments))
        return started[-1]

    yield start
    for forked in started:
        forked.kill()
        forked.process.close()
