"""The staging journal: what is finished, a line each, so that a killed packing goes on, and reads little.

Sizes and times of the source files live in it alone, as 8 bytes for each row of a chunk, a shortcut that
saves reading: a journal that is lost or torn costs time and nothing else. A line is JSON, one of

    {"segment": S, "manifest": {…}, "facts": [F, …]}
    {"chunk": D, "facts": F}

S is the digest of a segment's options and keys in order, and the manifest describes the chunks that it
became. D is the stored digest of a chunk that was compared with the samples. F has for each row of the
chunk, in base64, the checksum of path, size and time of change of files that have the row's contents. The
last line counts.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

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
        chunks: The chunks it became; their objects were in staging when the line was written.
        facts: What is known of the files of each chunk's rows, 8 bytes a row.
    """

    segment: str
    chunks: tuple[ChunkEntry, ...]
    facts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a line stands, and the stored digests of the chunks that it tells of."""

    offset: int
    length: int
    chunks: tuple[str, ...]


class _Table:
    """Which line tells of which segment and of which chunk; the facts themselves stay on the disk."""

    def __init__(self) -> None:
        self.segments: dict[str, _Line] = {}
        self.chunks: dict[str, _Line] = {}

    def add(self, offset: int, length: int, told: Segment | tuple[str, bytes]) -> None:
        """Add a line; what earlier ones told of the same does not count any more."""
        if isinstance(told, Segment):
            line = _Line(offset, length, tuple(chunk.stored for chunk in told.chunks))
            self.segments[told.segment] = line
        else:
            line = _Line(offset, length, told[:1])
        self.chunks.update(dict.fromkeys(line.chunks, line))


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

    def segment(self, digest: str) -> Segment | None:
        """Return a finished segment, or None where the journal does not know it."""
        line = self._table.segments.get(digest)
        told = self._parse(self._read(line)) if line else None
        return told if isinstance(told, Segment) else None

    def facts(self, stored: str) -> bytes:
        """Return what is known of the rows of a chunk, 8 bytes a row; empty where nothing is.

        Args:
            stored: The chunk's stored digest.
        """
        line = self._table.chunks.get(stored)
        told = self._parse(self._read(line)) if line else None
        if isinstance(told, Segment):
            return dict(zip((chunk.stored for chunk in told.chunks), told.facts, strict=True))[stored]
        return told[1] if told else b""

    def add_segment(self, segment: Segment) -> None:
        """Write a line of a finished segment; it is on the disk when this returns."""
        manifest = Manifest(dataset=self._dataset, chunk_bytes=0, codec="auto", chunks=segment.chunks)
        head = {"segment": segment.segment, "facts": [_encode_facts(facts) for facts in segment.facts]}
        line = canonical.encode(head)[:-1] + b',"manifest":' + encode_manifest(manifest) + b"}\n"
        self._append(line, segment)

    def add_facts(self, stored: str, facts: bytes) -> None:
        """Write a line of a chunk that was compared; it is on the disk when this returns."""
        line = canonical.encode({"chunk": stored, "facts": _encode_facts(facts)}) + b"\n"
        self._append(line, (stored, facts))

    def rewrite(self, chunks: Collection[str]) -> None:
        """Put a journal of these chunks alone in the old one's place, at once; the last call on it.

        Args:
            chunks: Their stored digests.
        """
        wanted = set(chunks)
        lines = {line for line in self._table.segments.values() if wanted.intersection(line.chunks)}
        lines |= {line for stored, line in self._table.chunks.items() if stored in wanted}
        fresh = self._path.with_name(self._path.name + ".new")
        with self._translated(), fresh.open("wb") as file:
            file.writelines(self._read(line) for line in sorted(lines, key=lambda line: line.offset))
            file.flush()
            os.fsync(file.fileno())
            os.replace(fresh, self._path)

    @cached_property
    def _table(self) -> _Table:
        """What whole lines the journal has."""
        table, offset = _Table(), 0
        with self._translated(), self._path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                told = self._parse(line)
                if told:
                    table.add(offset, len(line), told)
                offset += len(line)
        return table

    def _read(self, line: _Line) -> bytes:
        with self._translated():
            return os.pread(self._file.fd, line.length, line.offset)

    def _append(self, line: bytes, told: Segment | tuple[str, bytes]) -> None:
        table = self._table
        with self._translated():
            offset = os.lseek(self._file.fd, 0, os.SEEK_END)
            _write_all(self._file.fd, line)
            os.fsync(self._file.fd)
        table.add(offset, len(line), told)

    def _end_torn_line(self) -> None:
        """End the line that a killed process left unfinished, so that the next one stands by itself."""
        size = os.fstat(self._file.fd).st_size
        if size and os.pread(self._file.fd, 1, size - 1) != b"\n":
            os.pwrite(self._file.fd, b"\n", size)

    def _parse(self, line: bytes) -> Segment | tuple[str, bytes] | None:
        """Return what a line tells, a segment, or a chunk and its facts; None where it is not whole."""
        try:
            fields = canonical.decode(line, what="a journal line", max_bytes=MAX_LINE_BYTES)
            if "chunk" in fields:
                told = fields["chunk"], _decode_facts(fields["facts"])
                return told if isinstance(told[0], str) else None
            data = canonical.encode(fields["manifest"])
            manifest = decode_manifest(data, dataset=self._dataset, digest=manifest_digest(data))
            digest, facts = fields["segment"], tuple(_decode_facts(text) for text in fields["facts"])
        except (BenchKitError, KeyError, TypeError, ValueError):
            return None
        if not isinstance(digest, str) or len(facts) != len(manifest.chunks):
            return None
        return Segment(segment=digest, chunks=manifest.chunks, facts=facts)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the operating system's errors into this project's."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"the journal {self._path} cannot be used: {error.strerror}") from error


def _encode_facts(facts: bytes) -> str:
    return base64.b64encode(facts).decode("ascii")


def _decode_facts(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
