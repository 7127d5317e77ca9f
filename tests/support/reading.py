"""Datasets as tests of the loader read them: every byte checked, random numbers beside, rows told apart."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.making import content, publish_samples
from support.noted_store import NotedStore

from benchkit import IterableChunk, LoaderOptions, get_dataset
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.format.chunk import Codec
from benchkit.stream.cache import ChunkCache
from benchkit.stream.loader import ChunkLoader
from benchkit.stream.reader import ChunkReader


class Numbers(IterableChunk):
    """Yields label, contents as a tensor, and a random number of all three kinds as an augmentation would."""

    def _data_iterator(self) -> Iterator[Any]:
        for label, files in super()._data_iterator():
            data = files[0].read()
            assert data == content(label, len(data)), f"wrong bytes of sample {label}"
            noise = torch.rand(()).item() + random.random() + np.random.rand()  # noqa: NPY002
            yield label, torch.frombuffer(bytearray(data), dtype=torch.uint8), noise


class Labels(IterableChunk):
    """Yields the label alone."""

    def _data_iterator(self) -> Iterator[Any]:
        for label, _ in super()._data_iterator():
            yield label


def make(
    name: str, batch: int, workers: int = 0, chunk: type[IterableChunk] = Labels, **more: Any
) -> ChunkLoader:
    """Return a loader of the project's remote; `loader` takes options, the rest goes to the chunk class."""
    options = {key: more.pop(key) for key in list(more) if key in LoaderOptions.__slots__}
    return get_dataset(chunk, True, name, batch, workers, loader=LoaderOptions(**options), **more)


def open_reader(
    project: Path, codec: Codec, samples: int = 160, *, per_chunk: int = 40, size: int = 5000
) -> ChunkReader:
    """Publish samples, and return a reader of them whose store notes which chunks are fetched."""
    publish_samples(project, "numbers", samples, per_chunk=per_chunk, codec=codec, size=size)
    store = NotedStore(project / "store")
    version = find_version(store, "numbers")
    return ChunkReader(
        store=store,
        cache=ChunkCache(folder=project / "cache", limit_bytes=1 << 30),
        manifest=read_manifest(store, version),
        version=version,
        keep=4,
    )


def digest(batch: Any) -> str:
    """Return a digest of every byte of a batch."""
    hasher = hashlib.sha256()
    for part in batch if isinstance(batch, list | tuple) else [batch]:
        hasher.update(repr((part.dtype, part.shape)).encode() + part.numpy().tobytes())
    return hasher.hexdigest()


def labels_of(batches: list[Any]) -> list[int]:
    """Return the labels of batches, one after the other."""
    return [int(label) for batch in batches for label in (batch[0] if isinstance(batch, list) else batch)]


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Return as soon as the condition holds; fail when it does not come to hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)
