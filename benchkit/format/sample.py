"""Samples out of a chunk: members sliced by the index, each checked before a byte reaches the user."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchkit.errors import CorruptError
from benchkit.format.digests import checksum
from benchkit.format.index import ChunkIndex
from benchkit.format.labels import decode_label

ReadRange = Callable[[int, int], bytes]
"""Return the bytes of the plain tar at an offset, of a length."""


class MemberFile(io.BytesIO):
    """A file of a sample: an in-memory binary file whose `name` is the original base name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def read_label(index: ChunkIndex, row: int, read: ReadRange, *, what: str) -> Any:
    """Return the label of a row; `what` names the chunk for messages."""
    members = iter(index.members(row)[_file_count(index, row) :])
    where = _Where(index, row, what)

    def next_member() -> bytes:
        number = next(members, None)
        if number is None:
            raise CorruptError(f"the label of {where} has fewer arrays than its kind says")
        return _read_member(index, number, read, "the label", where)

    label = decode_label(index.kinds[index.kind[row]], next_member(), next_member, what=where)
    if next(members, None) is not None:
        raise CorruptError(f"the label of {where} has more arrays than its kind says")
    return label


def read_files(index: ChunkIndex, row: int, read: ReadRange, *, what: str) -> list[MemberFile] | None:
    """Return the files of a row in the order `get_file` gave them, or None for a sample without files."""
    names = index.file_names(row)
    if not names:
        return None
    first = index.members(row)[0]
    where = _Where(index, row, what)
    return [
        MemberFile(_read_member(index, first + number, read, "file", where, name), name)
        for number, name in enumerate(names)
    ]


@dataclass(frozen=True, slots=True)
class _Where:
    """A row as messages call it; put into words only when there is a message."""

    index: ChunkIndex
    row: int
    chunk: str

    def __str__(self) -> str:
        return f"{self.index.name(self.row)} of {self.chunk}"


def _file_count(index: ChunkIndex, row: int) -> int:
    return int(index.sample_file[row + 1]) - int(index.sample_file[row])


def _read_member(
    index: ChunkIndex, number: int, read: ReadRange, noun: str, where: _Where, name: str = ""
) -> bytes:
    data = read(int(index.member_offset[number]), int(index.member_size[number]))
    if checksum(data) != index.member_checksum[number]:
        noun = f"{noun} {name!r}" if name else noun
        raise CorruptError(f"{noun} of {where} is corrupt: its checksum is not the one in the chunk's index")
    return data
