"""Real datasets on a disk, and the samples of a store read back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.album import CHUNK_BYTES, Album
from support.rows import read_rows

from benchkit.data import ProcessorDataset
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.data.pack import PackReport, pack
from benchkit.data.unpack import unpack_chunk
from benchkit.format.index import decode_index
from benchkit.store.base import Store
from benchkit.store.local import LocalStore

Read = dict[str, tuple[Any, list[tuple[str, bytes]]]]


class Listed(ProcessorDataset):
    """A dataset of lists: the files of each sample, and its label."""

    def __init__(self, files: list[list[Any]], labels: list[Any] | None = None) -> None:
        self.files = files
        self.labels = labels if labels is not None else list(range(len(files)))

    def __len__(self) -> int:
        return len(self.files)

    def get_file(self, item: int) -> list[str]:
        return self.files[item]

    def get_label_and_numeric_data(self, item: int) -> Any:
        return self.labels[item]


@pytest.fixture
def listed() -> type[Listed]:
    """Return the class of datasets made of lists."""
    return Listed


@pytest.fixture
def write_files() -> Callable[..., list[str]]:
    """Return a function that writes files of seeded bytes, and returns their paths."""

    def write(folder: Path, count: int, *, size: int = 1000, seed: int = 0) -> list[str]:
        random = np.random.default_rng(seed)
        paths = []
        for number in range(count):
            path = folder / str(number % 3) / f"{number:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(random.bytes(size))
            paths.append(str(path))
        return paths

    return write


@pytest.fixture
def many(tmp_path: Path, write_files: Callable[..., list[str]]) -> Listed:
    """Return a dataset of 300 files of 1,000 bytes, below `data/`."""
    return Listed([[path] for path in write_files(tmp_path / "data", 300)])


@pytest.fixture
def staging(tmp_path: Path) -> LocalStore:
    """Return an empty store."""
    return LocalStore(tmp_path / "staging")


@pytest.fixture
def pack_small(tmp_path: Path, staging: LocalStore) -> Callable[..., PackReport]:
    """Return `pack` with small chunks, two workers, and everything in one temporary folder."""

    def run(dataset: ProcessorDataset, name: str = "train", **options: Any) -> PackReport:
        fixed = {"staging": staging, "project": tmp_path, "chunk_bytes": 128 << 10, "workers": 2}
        return pack(dataset, name, **fixed | options)

    return run


@pytest.fixture
def album(tmp_path: Path) -> Album:
    """Return an album of 200 files, about 9 chunks."""
    return Album(tmp_path / "album", files=200)


@pytest.fixture
def remote(tmp_path: Path) -> LocalStore:
    """Return another empty store."""
    return LocalStore(tmp_path / "remote")


@pytest.fixture
def repack(album: Album, pack_small: Callable[..., PackReport]) -> Callable[..., PackReport]:
    """Return a function that packs the album as it is now."""

    def run(**options: Any) -> PackReport:
        return pack_small(album.dataset, **{"chunk_bytes": CHUNK_BYTES} | options)

    return run


@pytest.fixture
def contents() -> Callable[..., dict[str, bytes]]:
    """Return a function that reads every object of a store."""

    def read(store: Store, prefix: str = "") -> dict[str, bytes]:
        return {info.name: store.read(info.name) for info in store.list(prefix)}

    return read


@pytest.fixture
def read_back() -> Callable[..., Read]:
    """Return a function that reads every live sample of a version: label and files, by key."""

    def read(store: Store, name: str = "train", number: int | None = None) -> Read:
        manifest = read_manifest(store, find_version(store, name, number=number))
        found: Read = {}
        for chunk in manifest.chunks:
            with tempfile.TemporaryFile(buffering=0) as tar:
                fd = tar.fileno()
                assert unpack_chunk(store.stream(manifest.chunk_object(chunk)), chunk, fd) is None
                data = os.pread(fd, chunk.index.tar_length, chunk.index.tar_offset or 0)
                index = decode_index(data, tar_bytes=chunk.tar_bytes, samples=chunk.samples, what="it")

                def read_range(offset: int, length: int, fd: int = fd) -> bytes:
                    return os.pread(fd, length, offset)

                rows = chunk.live_rows().tolist()
                for row, (label, files) in zip(
                    rows, read_rows(index, rows, read_range, what="it"), strict=True
                ):
                    assert index.key(row) not in found
                    found[index.key(row)] = label, [(file.name, file.read()) for file in files or []]
        assert len(found) == manifest.samples
        return found

    return read


def flip_byte(path: Path, position: int) -> None:
    """Change one byte of a file in place."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x20
    path.write_bytes(data)


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Return a function that changes one byte of a file."""
    return flip_byte


@pytest.fixture
def chunk_paths() -> Callable[[LocalStore], list[Path]]:
    """Return a function that lists the files of a local store's chunks."""

    def paths(store: LocalStore) -> list[Path]:
        names: Iterable[str] = (info.name for info in store.list("datasets/") if "/chunks/" in info.name)
        return [store.root / name for name in names]

    return paths
