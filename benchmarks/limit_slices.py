"""The limit of reading: slices of one indexed, memory-mapped file; by a `DataLoader`, bare, or checked."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cases import BATCH_SIZE, Case, Form, Place
from rows import Row, collate_of, row_maker
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[Row]):
    """The samples as rows, a batch of them at a time where the loader asks for it."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._offsets = np.load(folder / "offsets.npy").tolist()
        with (folder / "bytes").open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._make_row = row_maker(form)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, item: int) -> Row:
        return self._make_row(item, self._bytes[self._offsets[item] : self._offsets[item + 1]])

    def __getitems__(self, items: Sequence[int]) -> list[Row]:
        offsets, data, make_row = self._offsets, self._bytes, self._make_row
        return [make_row(item, data[offsets[item] : offsets[item + 1]]) for item in items]


class Bare:
    """Batches without a `DataLoader`; each pass shuffles anew."""

    def __init__(self, rows: Rows, case: Case, checksums: Sequence[int] | None) -> None:
        self._rows = rows
        self._case = case
        self._checksums = checksums

    def __iter__(self) -> Iterator[Any]:
        order, collate = list(range(len(self._rows))), collate_of(self._case.form)
        if self._case.shuffle:
            random.shuffle(order)
        for start in range(0, len(order), BATCH_SIZE):
            batch = collate(self._rows.__getitems__(order[start : start + BATCH_SIZE]))
            if self._checksums:
                _check(*batch, self._checksums)
            yield batch


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write all files as one, with their offsets and checksums."""
    from xxhash import xxh3_64_intdigest  # noqa: PLC0415  # not for those that only read

    del case, place
    out.mkdir(parents=True)
    offsets, checksums = [0], []
    with (out / "bytes").open("wb") as target:
        for path in files:
            data = Path(path).read_bytes()
            target.write(data)
            offsets.append(offsets[-1] + len(data))
            checksums.append(xxh3_64_intdigest(data))
    np.save(out / "offsets.npy", np.array(offsets, dtype=np.int64))
    np.save(out / "checksums.npy", np.array(checksums, dtype=np.uint64))


def load(case: Case, place: Place) -> Any:
    """Return what yields batches: `slices` is a `DataLoader`, the other sides are loops."""
    rows = Rows(place.packed, case.form)
    if case.side == "slices":
        return DataLoader(
            rows,
            batch_size=BATCH_SIZE,
            shuffle=case.shuffle,
            num_workers=case.workers,
            collate_fn=collate_of(case.form),
        )
    checked = case.side == "checked slices"
    return Bare(rows, case, np.load(place.packed / "checksums.npy").tolist() if checked else None)


def _check(numbers: Sequence[int], contents: Sequence[bytes], checksums: Sequence[int]) -> None:
    from xxhash import xxh3_64_intdigest  # noqa: PLC0415  # not for those that do not check

    for number, data in zip(numbers, contents, strict=True):
        if xxh3_64_intdigest(data) != checksums[number]:
            raise ValueError(f"sample {number} has other bytes than were packed")
