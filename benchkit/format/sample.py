"""Samples out of a chunk: members sliced by the index, each checked before a byte reaches the user."""

from __future__ import annotations

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
    """A file of a sample: an in-memory binary file whose `name` is the original base name."""

    name: str


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
        self._kind = _column(index.kind)
        self._first_member = _column(index.sample_member)
        self._first_file = _column(index.sample_file)
        self._first_letter = _column(np.append(np.zeros(1, np.uint32), index.name_end))
        self._letters = index.names.tobytes()
        self._offset, self._size = _column(index.member_offset), _column(index.member_size)
        self._checksum = _column(index.member_checksum)
        ends = index.member_offset[:-1].astype(np.uint64) + index.member_size[:-1]
        self._near_bytes = near_bytes if (index.member_offset[1:] >= ends).all() else 0
        rows = np.arange(len(index.sample_file))
        self._are_pairs = (
            index.kinds == ("cls",)
            and bool((index.sample_member == 2 * rows).all())
            and bool((index.sample_file == rows).all())
        )

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
                if self._are_pairs and end == first + 1:
                    samples.append(self._read_pair(row))
                else:
                    self._read_run(rows[first], row + 1, samples)
                first = end
        return samples

    def _read_pair(self, row: int) -> Sample:
        """Return a sample of one file and an integer, as `_read_run` does, in half the time."""
        member = 2 * row
        start, size, label_size = self._offset[member], self._size[member], self._size[member + 1]
        label_start = self._offset[member + 1]
        length = label_start + label_size - start
        if length <= 2 * self._near_bytes:
            block = self._read(start, length)
            data, text = block[:size], block[label_start - start :]
        else:
            data, text = self._read(start, size), self._read(label_start, label_size)
        if checksum(data) != self._checksum[member]:
            raise self._corrupt(row, member)
        if checksum(text) != self._checksum[member + 1]:
            raise self._corrupt(row, member + 1)
        file = MemberFile(data)
        letter = self._first_letter
        file.name = self._letters[letter[row] : letter[row + 1]].decode("utf-8", "surrogateescape")
        label = decode_int(text)
        return self._decode_label(row, [text]) if label is None else label, [file]

    def _read_run(self, start: int, end: int, samples: list[Sample]) -> None:
        """Add the samples of the rows from `start` to before `end`."""
        data = self._read_members(start, self._first_member[start], self._first_member[end])
        if self._are_pairs:
            self._add_pairs(start, data, samples)
            return
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
                name = letters[first_letter[number] : first_letter[number + 1]]
                file.name = name.decode("utf-8", "surrogateescape")
                files.append(file)
                number += 1
            label = None
            if only_ints and last - text == 1:
                label = decode_int(data[text])
            if label is None:
                label = self._decode_label(row, data[text:last])
            samples.append((label, files or None))
            begin = last

    def _add_pairs(self, row: int, data: list[bytes], samples: list[Sample]) -> None:
        """Add the samples of a file and an integer each that these members, from the row's first on, make."""
        letters, ends = self._letters, self._first_letter
        for content, text, begin, end in zip(data[::2], data[1::2], ends[row:], ends[row + 1 :]):  # noqa: B905
            file = MemberFile(content)
            file.name = letters[begin:end].decode("utf-8", "surrogateescape")
            label = decode_int(text)
            samples.append((self._decode_label(row, [text]) if label is None else label, [file]))
            row += 1

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

    def _decode_label(self, row: int, members: list[bytes]) -> Any:
        text, *arrays = members
        return decode_label(self._kinds[self._kind[row]], text, arrays, what=_Where(self, row))

    def describe(self, row: int) -> str:
        """Return how messages call a row."""
        return f"{self._name(row)} of {self._what}"

    def _corrupt(self, row: int, member: int) -> CorruptError:
        """Return the error that names a member, of the row or one behind it, that is not what it was."""
        while self._first_member[row + 1] <= member:
            row += 1
        file = self._first_file[row] + member - self._first_member[row]
        noun = f"file {self._file_name(file)!r}" if file < self._first_file[row + 1] else "the label"
        return CorruptError(
            f"{noun} of {self.describe(row)} is corrupt: its checksum is not the one in the chunk's index"
        )

    def _file_name(self, number: int) -> str:
        """Return the original base name of a file, by its number in the chunk."""
        name = self._letters[self._first_letter[number] : self._first_letter[number + 1]]
        return name.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _Where:
    """A row as messages call it; put into words only when there is a message."""

    reader: SampleReader
    row: int

    def __str__(self) -> str:
        return self.reader.describe(self.row)


def _column(values: npt.NDArray[Any]) -> memoryview:
    """Return a copy of the numbers, as narrow as they allow; to get one takes less than from an array."""
    return values.astype(np.min_scalar_type(values.max(initial=0))).data
