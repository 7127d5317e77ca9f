"""Plain files: no packing, a map-style dataset over their paths in torch's `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cases import BATCH_SIZE, Case, Form, Place
from rows import Row, collate_of, row_maker
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset[Row]):
    """The files as rows."""

    def __init__(self, files: Sequence[str], form: Form) -> None:
        self._files = files
        self._make_row = row_maker(form)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, item: int) -> Row:
        with open(self._files[item], "rb") as file:
            return self._make_row(item, file.read())


def load(case: Case, place: Place) -> DataLoader[Any]:
    """Return the loader."""
    return DataLoader(
        Rows(place.read_files(), case.form),
        batch_size=BATCH_SIZE,
        shuffle=case.shuffle,
        num_workers=case.workers,
        collate_fn=collate_of(case.form),
    )
