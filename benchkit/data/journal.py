"""The staging journal: which segments are finished, a line each, so that a killed packing goes on.

Sizes and times of the source files live in it alone, as one digest for a segment, a shortcut that saves
reading: a journal that is lost or torn costs time and nothing else. A line is JSON:

    {"segment": S, "sources": F, "manifest": {…}}

S is the digest of the options and of the keys in order, F that of every file's path, size and time of change;
the manifest describes the chunks that the segment became.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from benchkit.errors import BenchKitError, StoreError, UsageError
from benchkit.format import canonical
from benchkit.format.manifest import ChunkEntry, Manifest, decode_manifest, encode_manifest, manifest_digest
from benchkit.store.locks import open_locked

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A finished segment.

    Attributes:
        segment: Digest of the options and of the samples' keys in order.
        sources: Digest of the samples' files: path, size and time of each.
        chunks: The chunks it became; their objects were in staging when the line was written.
    """

    segment: str
    sources: str
    chunks: tuple[ChunkEntry, ...]


class Journal:
    """The journal of one dataset, held by this process inside its `with` block.

    Args:
        path: The file; it need not be there.
        dataset: Name of the dataset.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        self._path = path
        self._dataset = dataset

    def __enter__(self) -> Self:
        with self._translated():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = open_locked(self._path, shared=False, create=True, blocking=False)
            if file is None:
                raise UsageError(
                    f"{self._dataset!r} is being packed by another process, which holds {self._path}: "
                    "wait until it ends"
                )
            self._file = file
            self._end_torn_line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self) -> dict[str, Segment]:
        """Return the finished segments by their digests; what is no whole line of a journal is left out."""
        with self._translated():
            lines = self._path.read_bytes().split(b"\n")
        found = (self._parse(line) for line in lines if line)
        return {segment.segment: segment for segment in found if segment}

    def append(self, segment: Segment) -> None:
        """Write one line; it is on the disk when this returns."""
        with self._translated():
            os.lseek(self._file.fd, 0, os.SEEK_END)
            _write_all(self._file.fd, self._encode(segment))
            os.fsync(self._file.fd)

    def rewrite(self, segments: Iterable[Segment]) -> None:
        """Put a journal of these segments alone in the old one's place, at once; the last call on it."""
        fresh = self._path.with_name(self._path.name + ".new")
        with self._translated(), fresh.open("wb") as file:
            file.writelines(self._encode(segment) for segment in segments)
            file.flush()
            os.fsync(file.fileno())
            os.replace(fresh, self._path)

    def _end_torn_line(self) -> None:
        """End the line that a killed process left unfinished, so that the next one stands by itself."""
        size = os.fstat(self._file.fd).st_size
        if size and os.pread(self._file.fd, 1, size - 1) != b"\n":
            os.pwrite(self._file.fd, b"\n", size)

    def _encode(self, segment: Segment) -> bytes:
        manifest = Manifest(dataset=self._dataset, chunk_bytes=0, codec="auto", chunks=segment.chunks)
        head = canonical.encode({"segment": segment.segment, "sources": segment.sources})
        return head[:-1] + b',"manifest":' + encode_manifest(manifest) + b"}\n"

    def _parse(self, line: bytes) -> Segment | None:
        try:
            fields = canonical.decode(line, what="a journal line", max_bytes=MAX_LINE_BYTES)
            data = canonical.encode(fields["manifest"])
            manifest = decode_manifest(data, dataset=self._dataset, digest=manifest_digest(data))
            segment, sources = fields["segment"], fields["sources"]
        except (BenchKitError, KeyError, TypeError):
            return None
        if not isinstance(segment, str) or not isinstance(sources, str):
            return None
        return Segment(segment=segment, sources=sources, chunks=manifest.chunks)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the operating system's errors into this project's."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"the journal {self._path} cannot be used: {error.strerror}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
