"""Datasets for tests of the stream: written chunk by chunk, published in a project's store."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchkit.data.catalogue import Version, open_catalogue, publish
from benchkit.format import layout
from benchkit.format.chunk import ChunkWriter, Codec
from benchkit.format.labels import encode_label
from benchkit.format.manifest import Manifest
from benchkit.store.local import LocalStore


def make_project(folder: Path) -> Path:
    """Make an empty project whose remote is a folder in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchkit.toml").write_text('[project]\nid = "trial"\nremote = "store"\n')
    return folder


def content(number: int, size: int = 200) -> bytes:
    """Return the contents of the file of sample `number`."""
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8).tobytes()


class MadeFile(io.BytesIO):
    """A file on its way into a chunk, made of bytes."""

    def __init__(self, name: bytes, data: bytes, size: int | None = None) -> None:
        super().__init__(data)
        self.name = name
        self.size = len(data) if size is None else size


def member_columns(*members: tuple[int, int, int]) -> list[npt.NDArray[np.uint64]]:
    """Return offsets, sizes and checksums of members as an index takes them."""
    return [np.array(column, dtype=np.uint64) for column in zip(*members, strict=True)]


def publish_samples(
    project: Path,
    name: str,
    samples: int,
    *,
    per_chunk: int,
    codec: Codec = "auto",
    size: int = 200,
    contents: Callable[[int], bytes] | None = None,
) -> Version:
    """Publish samples 0, 1, 2 …: label `i`, one file `f<i>.bin` of `size` bytes or `contents(i)`."""
    store = LocalStore(project / "store")
    open_catalogue(store, create=True)
    entries = []
    for start in range(0, samples, per_chunk):
        with store.temporary() as temporary:
            writer = ChunkWriter(temporary.file, codec=codec)
            for i in range(start, min(samples, start + per_chunk)):
                data = contents(i) if contents else content(i, size)
                file = MadeFile(b"f%d.bin" % i, data)
                writer.add_sample(b"%d" % i, [file], encode_label(i))
            entry = writer.finish()
            store.adopt(temporary, layout.chunk_name(name, entry.stored, entry.codec))
        entries.append(entry)
    manifest = Manifest(dataset=name, chunk_bytes=1 << 25, codec=codec, chunks=tuple(entries))
    return publish(store, manifest)[0]
