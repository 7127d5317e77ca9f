"""Datasets for tests of the stream: written chunk by chunk, published in a project's store."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchkit.data.catalogue import Version, open_catalogue, publish
from benchkit.data.samples import Samples
from benchkit.data.segments import PackJob
from benchkit.format import layout
from benchkit.format.chunk import ChunkWriter, Codec
from benchkit.format.digests import digest_key
from benchkit.format.index import IndexBuilder
from benchkit.format.labels import EncodedLabel, encode_label
from benchkit.format.manifest import Manifest
from benchkit.format.members import Rows
from benchkit.store.local import LocalStore


def make_project(folder: Path) -> Path:
    """Make an empty project whose remote is a folder in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchkit.toml").write_text('[project]\nid = "trial"\nremote = "store"\n')
    return folder


def content(number: int, size: int = 200) -> bytes:
    """Return the contents of the file of sample `number`."""
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8).tobytes()


class MadeFiles:
    """Files on their way into a chunk, made of bytes."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = [io.BytesIO(data) for data in contents]

    def read(self, places: Sequence[memoryview]) -> None:
        for place in places:
            assert self._contents.pop(0).readinto(place) == len(place)

    def read_part(self, place: memoryview) -> None:
        file = self._contents[0]
        assert file.readinto(place) == len(place)
        if file.tell() == len(file.getvalue()):
            del self._contents[0]


def rows_of(
    samples: Sequence[tuple[bytes, Sequence[tuple[bytes, bytes]], EncodedLabel]],
) -> tuple[Rows, MadeFiles]:
    """Return samples of a key, names and contents of files, and a label, as a chunk's writer takes them."""
    files = [file for _, files, _ in samples for file in files]
    rows = Rows(
        keys=[key for key, _, _ in samples],
        digests=[digest_key(key) for key, _, _ in samples],
        labels=[label for _, _, label in samples],
        counts=[len(files) for _, files, _ in samples],
        names=[name for name, _ in files],
        sizes=[len(data) for _, data in files],
    )
    return rows, MadeFiles([data for _, data in files])


def add_sample(writer: ChunkWriter, key: bytes, files: Iterable[tuple[bytes, bytes]], label: object) -> None:
    """Add a sample to a chunk: its key, names and contents of its files, and its label."""
    writer.add_samples(*rows_of([(key, list(files), encode_label(label))]))


def add_row(builder: IndexBuilder, key: bytes, names: Sequence[bytes], members: int, kind: object) -> None:
    """Add a sample to an index."""
    builder.add_samples([key], [len(names)], names, [members], [kind])


def make_job(
    samples: Samples, staging: LocalStore, *, chunk_bytes: int = 1 << 20, codec: Codec = "auto"
) -> PackJob:
    """Return what packs samples as `train`."""
    return PackJob(
        samples=samples,
        name="train",
        staging=staging,
        remote=None,
        chunk_bytes=chunk_bytes,
        codec=codec,
        checksum=False,
    )


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
                add_sample(writer, b"%d" % i, [(b"f%d.bin" % i, data)], i)
            entry = writer.finish()
            store.adopt(temporary, layout.chunk_name(name, entry.stored, entry.codec))
        entries.append(entry)
    manifest = Manifest(dataset=name, chunk_bytes=1 << 25, codec=codec, chunks=tuple(entries))
    return publish(store, manifest)[0]
