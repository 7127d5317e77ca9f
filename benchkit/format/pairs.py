"""Pairs: samples of a file and an integer, read in a loop that does no more for each than that takes.

Most samples of small files are such; to read one as any sample is read takes twice as long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from benchkit.format.digests import checksum
from benchkit.format.index import ChunkIndex
from benchkit.format.labels import decode_int
from benchkit.format.sample import NEAR_BYTES, MemberFile, ReadRange, Sample, SampleReader

_FIELDS = np.dtype(
    {
        "names": ["start", "length", "file", "label", "name", "name_end", "file_checksum", "label_checksum"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u8", "<u8"],
    }
)
"""What is held of a row: where it starts, how long it and its file are, where in it its label starts, where
its name is among the letters, and checksums. All is in one place: it takes long to get from several."""
_ROW = struct.Struct("<6I2Q")
_MOST_BYTES = 1 << 32


def open_samples(
    index: ChunkIndex,
    read: ReadRange,
    *,
    what: str,
    name: Callable[[int], str] | None = None,
    near_bytes: int = NEAR_BYTES,
) -> SampleReader:
    """Return what reads the rows of a chunk; the arguments are those of `SampleReader`."""
    kind = PairReader if _are_pairs(index) else SampleReader
    return kind(index, read, what=what, name=name, near_bytes=near_bytes)


class PairReader(SampleReader):
    """Reads the rows of a chunk of pairs."""

    def _hold(self, index: ChunkIndex) -> None:
        start, label = index.member_offset[::2], index.member_offset[1::2]
        table = np.empty(index.samples, _FIELDS)
        table["start"], table["label"] = start, label - start
        table["length"] = label + index.member_size[1::2] - start
        table["file"] = index.member_size[::2]
        table["name"], table["name_end"] = np.append(np.uint32(0), index.name_end[:-1]), index.name_end
        table["file_checksum"] = index.member_checksum[::2]
        table["label_checksum"] = index.member_checksum[1::2]
        self._table = table.tobytes()

    def read(self, rows: Sequence[int]) -> list[Sample]:
        """Return the samples of these rows, in any order, as every reader does."""
        if len(rows) > 1 and 0 < rows[-1] - rows[0] < 2 * len(rows):  # many may be next to each other
            return super().read(rows)
        samples: list[Sample] = []
        self._read_each(rows, samples)
        return samples

    def _read_each(self, rows: Sequence[int], samples: list[Sample]) -> None:
        """Add the samples of the rows, each read by itself."""
        read, unpack, table, width = self._read, _ROW.unpack_from, self._table, _ROW.size
        letters, most = self._letters, 2 * self._near_bytes
        for row in rows:
            start, length, size, label, name, name_end, sum_, label_sum = unpack(table, row * width)
            if length <= most:
                block = read(start, length)
                data, text = block[:size], block[label:]
            else:
                data, text = read(start, size), read(start + label, length - label)
            if checksum(data) != sum_:
                raise self._say_corrupt(row, letters[name:name_end])
            if checksum(text) != label_sum:
                raise self._say_corrupt(row, None)
            file = MemberFile(data)
            file.stored_name = letters[name:name_end]
            number = decode_int(text)
            samples.append((self._decode_label(row, "cls", [text]) if number is None else number, [file]))

    def _read_run(self, start: int, end: int, samples: list[Sample]) -> None:
        rows = _ROW.iter_unpack(self._table[start * _ROW.size : end * _ROW.size])
        starts, lengths, sizes, labels, names, name_ends, sums, label_sums = zip(*rows, strict=True)
        begin, length = starts[0], starts[-1] + lengths[-1] - starts[0]
        if length <= 2 * len(starts) * self._near_bytes:
            block = self._read(begin, length)
            at = [start - begin for start in starts]
            data = [block[here : here + size] for here, size in zip(at, sizes, strict=True)]
            places = zip(at, labels, lengths, strict=True)
            texts = [block[here + label : here + length] for here, label, length in places]
            numbers = [*map(decode_int, texts)]
            right = (*map(checksum, data),) == sums and (*map(checksum, texts),) == label_sums
            if right and None not in numbers:
                letters = self._letters
                for content, number, name, name_end in zip(data, numbers, names, name_ends, strict=True):
                    file = MemberFile(content)
                    file.stored_name = letters[name:name_end]
                    samples.append((number, [file]))
                return
        self._read_each(range(start, end), samples)


def _are_pairs(index: ChunkIndex) -> bool:
    """Return whether all samples are pairs, each a file before its label, in the first 4 GiB of the tar."""
    rows = np.arange(index.samples + 1)
    return (
        index.samples > 0
        and index.kinds == ("cls",)
        and bool((index.sample_member == 2 * rows).all())
        and bool((index.sample_file == rows).all())
        and index.in_order
        and int(index.member_offset[-1]) + int(index.member_size[-1]) < _MOST_BYTES
    )
