"""The rows of a packed chunk, compared with samples, whose files are read no further than that takes.

The journal's facts of a row stand for its files' paths, sizes and times: where they are the same, the files
are not read. Labels are made anew, for they can change while no file does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import islice

import numpy as np

from benchkit.data.samples import Samples
from benchkit.data.sources import Sources, source_names, stat_sources
from benchkit.format.digests import checksum, new_checksum
from benchkit.format.index import ChunkIndex
from benchkit.format.labels import EncodedLabel

_FACTS_BYTES = 8
"""What the facts of one row take: a checksum, little-endian."""

_BLOCK_BYTES = 1 << 20
"""Files are read in blocks of this size."""


def digest_facts(
    counts: Sequence[int], paths: Sequence[str], statuses: Sequence[os.stat_result]
) -> list[int]:
    """Return the facts of rows: for each the XXH3 checksum of its files' paths, sizes and times of change.

    Args:
        counts: How many files each has.
        paths: The paths of all files.
        statuses: What the file system says of them.
    """
    # A path has no null byte, so that no two rows of facts give the same bytes.
    facts = iter(
        [
            b"%s\0%d %d\n" % (path.encode("utf-8", "surrogateescape"), status.st_size, status.st_mtime_ns)
            for path, status in zip(paths, statuses, strict=True)
        ]
    )
    return [checksum(b"".join(islice(facts, count))) for count in counts]


class PackedRows:
    """The rows of a packed chunk, to be compared with samples one by one.

    Args:
        index: The chunk's index.
        known: What the journal knows of its rows, 8 bytes a row; empty where it knows nothing.
        contents: Read the files even where the journal's facts are the same.

    Attributes:
        bytes_read: Bytes of source files that were read.
        source_bytes: Sizes of the files of rows that are what their samples are.
    """

    def __init__(self, index: ChunkIndex, known: bytes, *, contents: bool) -> None:
        self._index = index
        self._contents = contents
        files = index.sample_file[1:] - index.sample_file[:-1]
        self._first = index.sample_member[:-1].tolist()
        self._label = (index.sample_member[:-1] + files).tolist()
        self._end = index.sample_member[1:].tolist()
        self._sizes = index.member_size.tolist()
        self._checksums = index.member_checksum.tolist()
        self._kinds = [index.kinds[kind] for kind in index.kind.tolist()]
        usable = len(known) == _FACTS_BYTES * index.samples
        self._facts = np.frombuffer(known, dtype="<u8").copy() if usable else np.zeros(index.samples, "<u8")
        self._buffer = memoryview(bytearray(_BLOCK_BYTES))
        self.bytes_read = 0
        self.source_bytes = 0

    @property
    def facts(self) -> bytes:
        """What the journal is to know of the rows now, 8 bytes a row."""
        return self._facts.tobytes()

    def match(self, row: int, samples: Samples, number: int, paths: Sequence[str]) -> bool:
        """Return whether a row is what a sample is now.

        Args:
            row: The row.
            samples: The dataset.
            number: The sample.
            paths: Its files.

        Raises:
            SampleError: A file cannot be read, or changes meanwhile; or the label cannot be made.
            LabelTypeError: The label is of a type that cannot be stored.
        """
        found = list(stat_sources([number], [paths]))
        sizes = self._sizes[self._first[row] : self._label[row]]
        if [status.st_size for status in found] != sizes or not self._has_names(row, number, paths):
            return False
        if not self._has_label(row, samples.label(number)):
            return False
        [digest] = digest_facts([len(paths)], paths, found)
        if self._contents or digest != self._facts[row]:
            read = self._read_files(row, number, paths)
            if read is None:
                return False
            [digest] = digest_facts([len(paths)], paths, read)
        self._facts[row] = digest
        self.source_bytes += sum(sizes)
        return True

    def _has_names(self, row: int, number: int, paths: Sequence[str]) -> bool:
        names = source_names([number], [paths])
        return [name.decode("utf-8", "surrogateescape") for name in names] == self._index.file_names(row)

    def _has_label(self, row: int, label: EncodedLabel) -> bool:
        members = range(self._label[row], self._end[row])
        return (
            self._kinds[row] == label.kind
            and len(members) == len(label.parts)
            and all(
                self._sizes[member] == len(part) and self._checksums[member] == checksum(part)
                for member, part in zip(members, label.parts, strict=True)
            )
        )

    def _read_files(self, row: int, number: int, paths: Sequence[str]) -> list[os.stat_result] | None:
        """Return what the row's files were when they were read; None where one is another."""
        with closing(Sources([number], [paths])) as sources:
            for member, status in enumerate(sources.statuses, start=self._first[row]):
                same = status.st_size == self._sizes[member]
                if not same or self._checksum(sources, status.st_size) != self._checksums[member]:
                    return None
            return sources.statuses

    def _checksum(self, sources: Sources, size: int) -> int:
        """Return the checksum of the next file."""
        hasher, left = new_checksum(), size
        while True:
            block = self._buffer[: min(left, _BLOCK_BYTES)]
            sources.read_part(block)
            left -= len(block)
            hasher.update(block)
            self.bytes_read += len(block)
            if not left:
                return hasher.intdigest()
