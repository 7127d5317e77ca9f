"""Samples out of a chunk: members sliced by the index, each checked before a byte reaches the user."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import CorruptError
from benchkit.format.digests import checksum
from benchkit.format.index import ChunkIndex
from benchkit.format.labels import decode_int, decode_label

ReadRange = Callable[[int, int], bytes]
"""Return the bytes of the plain tar at an offset, of a length."""

NEAR_BYTES = 16 << 10
"""From a file, members are read one by one when they are larger than this."""


class MemberFile(io.BytesIO):
    """A file of a sample: an in-memory binary file whose `name` is the original base name.

    Attributes:
        stored_name: The name as the index has it; it is seldom asked for, and decoded when it is.
    """

    stored_name: bytes

    @property
    def name(self) -> str:
        """The original base name."""
        return _decode_name(self.stored_name)

    @name.setter
    def name(self, name: str) -> None:
        self.stored_name = name.encode("utf-8", "surrogateescape")


Sample = tuple[Any, list[MemberFile] | None]
"""Label, and files in the order `get_file` gave them; None for a sample without files."""


class SampleReader:
    """Reads the rows of one chunk, by what its index says of them, which it holds in little memory.

    Args:
        index: The index of the chunk.
        read: Reads the chunk.
        what: The chunk, for messages.
        name: What messages call a row; None is `row 17`.
        near_bytes: Members that take at most this each, with what lies between them, are read at once.
    """

    def __init__(
        self,
        index: ChunkIndex,
        read: ReadRange,
        *,
        what: str,
        name: Callable[[int], str] | None = None,
        near_bytes: int = NEAR_BYTES,
    ) -> None:
        self._read = read
        self._what = what
        self._name = name or "row {}".format
        self._kinds = index.kinds
        self._letters = index.names.tobytes()
        self._near_bytes = near_bytes if index.in_order else 0
        self._hold(index)

    def reading(self, read: ReadRange) -> SampleReader:
        """Return one that reads the same chunk where it has been opened again, by the same index."""
        again = copy.copy(self)
        again._read = read  # noqa: SLF001
        return again

    def _hold(self, index: ChunkIndex) -> None:
        """Keep what the index says of the rows."""
        self._kind = _column(index.kind)
        self._first_member = _column(index.sample_member)
        self._first_file = _column(index.sample_file)
        self._first_letter = _column(np.append(np.zeros(1, np.uint32), index.name_end))
        self._offset, self._size = _column(index.member_offset), _column(index.member_size)
        self._checksum = _column(index.member_checksum)

    def read(self, rows: Sequence[int]) -> list[Sample]:
        """Return the samples of these rows, in any order; what stands next to each other is read together.

        Raises:
            CorruptError: A member is not what the index says.
            FormatError: A label's members and its kind do not fit each other.
        """
        samples: list[Sample] = []
        first = 0
        for end, row in enumerate(rows, start=1):
            if end == len(rows) or rows[end] != row + 1:
                self._read_run(rows[first], row + 1, samples)
                first = end
        return samples

    def _read_run(self, start: int, end: int, samples: list[Sample]) -> None:
        """Add the samples of the rows from `start` to before `end`."""
        data = self._read_members(start, self._first_member[start], self._first_member[end])
        first_member, first_file = self._first_member, self._first_file
        first_letter, letters = self._first_letter, self._letters
        only_ints = self._kinds == ("cls",)
        first, number = first_member[start], first_file[start]
        begin = 0
        for row in range(start, end):
            last, behind = first_member[row + 1] - first, first_file[row + 1]
            text = begin + behind - number
            files = []
            for at in range(begin, text):
                file = MemberFile(data[at])
                file.stored_name = letters[first_letter[number] : first_letter[number + 1]]
                files.append(file)
                number += 1
            label = None
            if only_ints and last - text == 1:
                label = decode_int(data[text])
            if label is None:
                label = self._decode_label(row, self._kinds[self._kind[row]], data[text:last])
            samples.append((label, files or None))
            begin = last

    def _read_members(self, row: int, first: int, end: int) -> list[bytes]:
        """Return the bytes of the members from `first`, the row's first, to before `end`, checked."""
        offsets, sizes = self._offset[first:end].tolist(), self._size[first:end].tolist()
        start = offsets[0]
        length = offsets[-1] + sizes[-1] - start
        if self._near_bytes and length <= len(sizes) * self._near_bytes:
            block = self._read(start, length)
            # To have zip check the lengths would take as long as the slices.
            data = [block[at - start : at - start + size] for at, size in zip(offsets, sizes)]  # noqa: B905
        else:
            data = list(map(self._read, offsets, sizes))
        expected = self._checksum[first:end].tolist()
        found = list(map(checksum, data))
        if found != expected:
            wrong = next(number for number in range(len(data)) if found[number] != expected[number])
            raise self._corrupt(row, first + wrong)
        return data

    def _decode_label(self, row: int, kind: Any, members: list[bytes]) -> Any:
        text, *arrays = members
        return decode_label(kind, text, arrays, what=_Where(self, row))

    def describe(self, row: int) -> str:
        """Return how messages call a row."""
        return f"{self._name(row)} of {self._what}"

    def _corrupt(self, row: int, member: int) -> CorruptError:
        """Return the error that names a member, of the row or one behind it, that is not what it was."""
        while self._first_member[row + 1] <= member:
            row += 1
        file = self._first_file[row] + member - self._first_member[row]
        if file >= self._first_file[row + 1]:
            return self._say_corrupt(row, None)
        return self._say_corrupt(row, self._letters[self._first_letter[file] : self._first_letter[file + 1]])

    def _say_corrupt(self, row: int, file_name: bytes | None) -> CorruptError:
        """Return the error that names a file of a row, or its label, that is not what it was."""
        noun = "the label"
        if file_name is not None:
            noun = f"file {_decode_name(file_name)!r}"
        return CorruptError(
            f"{noun} of {self.describe(row)} is corrupt: its checksum is not the one in the chunk's index"
        )


@dataclass(frozen=True, slots=True)
class _Where:
    """A row as messages call it; put into words only when there is a message."""

    reader: SampleReader
    row: int

    def __str__(self) -> str:
        return self.reader.describe(self.row)


def _decode_name(name: bytes) -> str:
    """Return the original base name that an index has in these bytes."""
    return name.decode("utf-8", "surrogateescape")


def _column(values: npt.NDArray[Any]) -> memoryview:
    """Return a copy of the numbers, as narrow as they allow; to get one takes less than from an array."""
    return values.astype(np.min_scalar_type(values.max(initial=0))).data
