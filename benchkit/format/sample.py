"""Samples out of a chunk: members sliced by the index, each checked before a byte reaches the user."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np

from benchkit.errors import CorruptError
from benchkit.format.digests import checksum
from benchkit.format.index import ChunkIndex
from benchkit.format.labels import decode_ints, decode_label

ReadRange = Callable[[int, int], bytes]
"""Return the bytes of the plain tar at an offset, of a length."""

NEAR_BYTES = 16 << 10
"""Members that take at most this each, with what lies between them, are read at once."""


class MemberFile(io.BytesIO):
    """A file of a sample: an in-memory binary file whose `name` is the original base name."""

    name: str


Sample = tuple[Any, list[MemberFile] | None]
"""Label, and files in the order `get_file` gave them; None for a sample without files."""


def read_rows(index: ChunkIndex, rows: Sequence[int], read: ReadRange, *, what: str) -> list[Sample]:
    """Return the samples of these rows; those that stand next to each other are read together.

    Args:
        index: The index of their chunk.
        rows: Numbers of rows, in any order.
        read: Reads the chunk.
        what: The chunk, for messages.

    Raises:
        CorruptError: A member is not what the index says.
        FormatError: A label's members and its kind do not fit each other.
    """
    samples: list[Sample] = []
    first = 0
    for end, row in enumerate(rows, start=1):
        if end == len(rows) or rows[end] != row + 1:
            samples += _read_run(index, rows[first], row + 1, read, what)
            first = end
    return samples


@dataclass(frozen=True, slots=True)
class _Where:
    """A row as messages call it; put into words only when there is a message."""

    index: ChunkIndex
    row: int
    chunk: str

    def __str__(self) -> str:
        return f"{self.index.name(self.row)} of {self.chunk}"


def _read_run(index: ChunkIndex, start: int, end: int, read: ReadRange, what: str) -> list[Sample]:
    """Return the samples of the rows from `start` to before `end`."""
    members = index.sample_member[start : end + 1].tolist()
    files = index.sample_file[start : end + 1].tolist()
    data = _read_members(index, members[0], members[-1], read, what)
    first = [member - members[0] for member in members]
    texts = [at + last - begin for at, begin, last in zip(first, files, files[1:], strict=False)]
    labels = None
    if index.kinds == ("cls",) and len(data) == files[-1] - files[0] + len(texts):
        labels = decode_ints([data[text] for text in texts])
    if labels is None:
        parts = zip(range(start, end), texts, first[1:], strict=True)
        labels = [_read_label(index, row, data[text:last], what) for row, text, last in parts]
    names = iter(index.file_names(start, end))
    samples: list[Sample] = []
    for label, begin, text in zip(labels, first, texts, strict=False):
        opened = []
        for content in data[begin:text]:
            file = MemberFile(content)
            file.name = next(names)
            opened.append(file)
        samples.append((label, opened or None))
    return samples


def _read_members(index: ChunkIndex, first: int, end: int, read: ReadRange, what: str) -> list[bytes]:
    """Return the bytes of the members from `first` to before `end`, checked."""
    offsets = index.member_offset[first:end].tolist()
    sizes = index.member_size[first:end].tolist()
    start = min(offsets)
    length = max(map(add, offsets, sizes)) - start
    if length <= len(sizes) * NEAR_BYTES:
        block = read(start, length)
        data = [block[at - start : at - start + size] for at, size in zip(offsets, sizes, strict=True)]
    else:
        data = list(map(read, offsets, sizes))
    expected = index.member_checksum[first:end].tolist()
    found = list(map(checksum, data))
    if found != expected:
        wrong = next(number for number in range(len(data)) if found[number] != expected[number])
        raise CorruptError(
            f"{_describe_member(index, first + wrong, what)} is corrupt: its checksum is not the one in the "
            "chunk's index"
        )
    return data


def _describe_member(index: ChunkIndex, member: int, what: str) -> str:
    row = int(np.searchsorted(index.sample_member, member, side="right")) - 1
    names = index.file_names(row)
    number = member - index.members(row).start
    noun = f"file {names[number]!r}" if number < len(names) else "the label"
    return f"{noun} of {_Where(index, row, what)}"


def _read_label(index: ChunkIndex, row: int, members: list[bytes], what: str) -> Any:
    text, *arrays = members
    return decode_label(index.kinds[index.kind[row]], text, arrays, what=_Where(index, row, what))
