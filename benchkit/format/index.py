"""The index: where every member of a chunk is and what it is, so that a reader parses no tar headers.

Arrays over M members, S samples and F files; a sample's members stand next to each other, files first, then
the label's text, then the label's arrays:

    member_offset, member_size                    uint32 (M,)    data in the plain tar; uint64 where needed
    member_checksum                               uint64 (M,)    XXH3, 64 bits
    sample_member, sample_file                    uint32 (S+1,)  first member and first file of each sample
    kind                                          uint32 (S,)    which of the kinds the sample's label has
    key_end                                       uint32 (S,)    end of each key in `keys`
    name_end                                      uint32 (F,)    end of each original file name in `names`
    keys, names                                   uint8          UTF-8, one after the other
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import DatasetError, FormatError
from benchkit.format import canonical
from benchkit.format.kinds import check_kind
from benchkit.format.tables import decode_table, encode_table

INDEX_FORMAT = 1
INDEX_NAME = b"__benchkit__/index.safetensors"

# One level of a label is at most three of JSON: the kind, its list of pairs, and the pair.
_MAX_METADATA_DEPTH = 3 * canonical.MAX_DEPTH + 3

_DTYPES = {
    "member_offset": ("<u4", "<u8"), "member_size": ("<u4", "<u8"), "member_checksum": ("<u8",),
    "sample_member": ("<u4",), "sample_file": ("<u4",), "kind": ("<u4",),
    "key_end": ("<u4",), "name_end": ("<u4",), "keys": ("|u1",), "names": ("|u1",),
}  # fmt: skip
_FORBIDDEN = bytes([*range(32), 127, ord("/")])
_NO_NAMES = frozenset((b"", b".", b".."))


@dataclass(frozen=True, slots=True, eq=False)
class ChunkIndex:
    """A chunk's index, checked against the size of its tar; the arrays are described at the top."""

    member_offset: npt.NDArray[np.uint32 | np.uint64]
    member_size: npt.NDArray[np.uint32 | np.uint64]
    member_checksum: npt.NDArray[np.uint64]
    sample_member: npt.NDArray[np.uint32]
    sample_file: npt.NDArray[np.uint32]
    kind: npt.NDArray[np.uint32]
    key_end: npt.NDArray[np.uint32]
    name_end: npt.NDArray[np.uint32]
    keys: npt.NDArray[np.uint8]
    names: npt.NDArray[np.uint8]
    kinds: tuple[Any, ...]

    @property
    def samples(self) -> int:
        """The number of rows."""
        return len(self.kind)

    @property
    def in_order(self) -> bool:
        """Whether no member begins before the one in front of it ends."""
        ends = self.member_offset[:-1].astype(np.uint64) + self.member_size[:-1]
        return bool((self.member_offset[1:] >= ends).all())

    def members(self, row: int) -> range:
        """Return the numbers of the row's members: its files, its label's text, its label's arrays."""
        return range(int(self.sample_member[row]), int(self.sample_member[row + 1]))

    def files(self, row: int) -> range:
        """Return the numbers of the row's files."""
        return range(int(self.sample_file[row]), int(self.sample_file[row + 1]))

    def key(self, row: int) -> str:
        """Return the row's key, as `get_key` gave it."""
        return _text(self.keys, self.key_end, row)

    def name(self, row: int) -> str:
        """Return how messages call the row."""
        return f"sample {self.key(row)!r}"

    def file_names(self, row: int) -> list[str]:
        """Return the original base names of the row's files."""
        return [_text(self.names, self.name_end, number) for number in self.files(row)]


class IndexBuilder:
    """An index in the making: samples are added in the order of their rows."""

    def __init__(self) -> None:
        self._members = (array("Q"), array("Q"), array("Q"))
        self._sample_members = array("I", [0])
        self._sample_files = array("I", [0])
        self._kind = array("I")
        self._kinds: dict[bytes, int] = {}
        self._last_kind: Any = None
        self._kind_number = 0
        self._keys: list[bytes] = []
        self._names: list[bytes] = []

    @property
    def samples(self) -> int:
        """The number of rows so far."""
        return len(self._kind)

    def add_members(self, offsets: npt.ArrayLike, sizes: npt.ArrayLike, checksums: npt.ArrayLike) -> None:
        """Add members, (n,) each; `add_samples` says whose they are, before or afterwards."""
        for column, values in zip(self._members, (offsets, sizes, checksums), strict=True):
            column.frombytes(np.asarray(values, dtype=np.uint64).tobytes())

    def add_samples(
        self,
        keys: Sequence[bytes],
        files: Sequence[int],
        names: Sequence[bytes],
        members: Iterable[int],
        kinds: Sequence[Any],
    ) -> None:
        """Add rows.

        Args:
            keys: The key of each.
            files: How many files each has.
            names: The names of all files.
            members: How many members each has.
            kinds: The kind of each one's label.
        """
        self._keys += keys
        self._names += names
        self._sample_members.extend(members)
        self._sample_files.extend(files)
        for kind in kinds:
            if kind != self._last_kind:
                self._last_kind = kind
                self._kind_number = self._kinds.setdefault(canonical.encode(kind), len(self._kinds))
            self._kind.append(self._kind_number)

    def encode(self) -> bytes:
        """Return the index as it stands in the chunk.

        Raises:
            DatasetError: The kinds of its labels are too many for an index.
        """
        arrays = {
            "member_offset": self._members[0],
            "member_size": self._members[1],
            "member_checksum": self._members[2],
            "sample_member": np.cumsum(self._sample_members),
            "sample_file": np.cumsum(self._sample_files),
            "kind": self._kind,
            "key_end": _find_ends(self._keys),
            "name_end": _find_ends(self._names),
            "keys": np.frombuffer(b"".join(self._keys), dtype=np.uint8),
            "names": np.frombuffer(b"".join(self._names), dtype=np.uint8),
        }
        kinds = [json.loads(kind) for kind in self._kinds]
        metadata = {"benchkit": "index", "format": INDEX_FORMAT, "kinds": kinds}
        typed = {name: _narrow(values, _DTYPES[name]) for name, values in arrays.items()}
        try:
            return encode_table(typed, metadata)
        except ValueError as error:
            raise DatasetError(
                f"the labels of {self.samples} samples have {len(kinds)} combinations of types, too many for "
                f"the index of a chunk ({error}): use smaller chunks, or labels that are more alike"
            ) from error


def decode_index(data: bytes, *, tar_bytes: int, samples: int, what: str) -> ChunkIndex:
    """Return the index that the bytes hold, every number checked once.

    Args:
        data: Contents of the index member.
        tar_bytes: Size of the plain tar that the members must lie in.
        samples: Rows that the manifest says the chunk has.
        what: The chunk, for messages.

    Raises:
        FormatError: A newer format, or numbers that do not fit each other or the tar.
    """
    what = f"the index of {what}"
    arrays, metadata = decode_table(data, what=what, max_depth=_MAX_METADATA_DEPTH)
    if not isinstance(metadata, dict) or metadata.get("benchkit") != "index":
        raise FormatError(f"{what} is not this project's")
    if type(metadata.get("format")) is not int or metadata["format"] != INDEX_FORMAT:
        raise FormatError(f"{what} has format {metadata.get('format')!r:.60}: upgrade benchkit")
    kinds = metadata.get("kinds")
    known = set(metadata) == {"benchkit", "format", "kinds"} and set(arrays) == set(_DTYPES)
    if not known or not isinstance(kinds, list):
        raise FormatError(f"{what} has other parts than this benchkit knows: upgrade benchkit")
    if any(values.dtype.str not in _DTYPES[name] for name, values in arrays.items()):
        raise FormatError(f"{what} has an array of the wrong type")
    for kind in kinds:
        check_kind(kind, what=what)
    index = ChunkIndex(**arrays, kinds=tuple(kinds))
    if index.samples != samples:
        raise FormatError(f"{what} has {index.samples} samples where the manifest says {samples}")
    problem = _find_problem(index, tar_bytes)
    if problem:
        raise FormatError(f"{what} is malformed: {problem}")
    return index


def _find_problem(index: ChunkIndex, tar_bytes: int) -> str | None:
    """Return what does not fit, or None; whole arrays at a time."""
    members, samples, files = len(index.member_offset), index.samples, len(index.name_end)
    if not len(index.member_size) == len(index.member_checksum) == members:
        return "its member arrays differ in length"
    if not len(index.key_end) + 1 == len(index.sample_member) == len(index.sample_file) == samples + 1:
        return "its sample arrays differ in length"
    if not _divides(index.sample_member, members) or not _divides(index.sample_file, files):
        return "its samples do not divide its members"
    if not _ends(index.key_end, len(index.keys)) or not _ends(index.name_end, len(index.names)):
        return "its keys or names do not divide their bytes"
    counts = np.diff(index.sample_member.astype(np.int64)) - np.diff(index.sample_file.astype(np.int64))
    if samples and (counts.min() < 1 or index.kind.max() >= len(index.kinds)):
        return "a sample has no label"
    if np.isin(index.names, np.frombuffer(_FORBIDDEN, dtype=np.uint8)).any() or _has_dot_names(index):
        return "a file name is empty, is . or .., or has a separator or a control character"
    return _find_stray_member(index, tar_bytes) if members else None


def _find_stray_member(index: ChunkIndex, tar_bytes: int) -> str | None:
    if max(index.member_size.max(), index.member_offset.max()) > tar_bytes:
        return "a member lies behind the end of the tar"
    ends = index.member_offset.astype(np.uint64) + index.member_size.astype(np.uint64)
    if ends.max() > tar_bytes:
        return "a member ends behind the end of the tar"
    if index.member_size.sum(dtype=np.float64) > tar_bytes:  # exact up to 2^53
        return "its members have more bytes together than the tar"
    return None


def are_file_names(names: Sequence[bytes]) -> bool:
    """Return whether each can be an original file name: one component without control characters."""
    letters = b"".join(names)
    return _NO_NAMES.isdisjoint(names) and len(letters.translate(None, _FORBIDDEN)) == len(letters)


def _find_ends(texts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Return where each ends when they stand one after the other, (n,)."""
    return np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))


def _narrow(values: Any, dtypes: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return the values in the first of the dtypes that holds them all."""
    wide = np.asarray(values, dtype=dtypes[-1])
    fits = len(wide) == 0 or int(wide.max()) <= np.iinfo(dtypes[0]).max
    return wide.astype(dtypes[0]) if fits else wide


def _has_dot_names(index: ChunkIndex) -> bool:
    """Return whether a file name is empty, `.` or `..`: as long as it has dots, and those are at most two."""
    ends = np.concatenate([[0], index.name_end]).astype(np.int64)
    dots = np.concatenate([[0], np.cumsum(index.names == ord("."))])[ends]
    return bool(((np.diff(ends) == np.diff(dots)) & (np.diff(ends) <= 2)).any())


def _divides(starts: npt.NDArray[np.uint32], total: int) -> bool:
    return bool(starts[0] == 0 and starts[-1] == total and (starts[1:] >= starts[:-1]).all())


def _ends(ends: npt.NDArray[np.uint32], total: int) -> bool:
    if not len(ends):
        return total == 0
    return bool(ends[-1] == total and (ends[1:] >= ends[:-1]).all())


def _text(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.uint32], number: int) -> str:
    start = int(ends[number - 1]) if number else 0
    return data[start : int(ends[number])].tobytes().decode("utf-8", "surrogateescape")
