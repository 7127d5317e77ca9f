"""litdata: chunks by `optimize`, streamed by its own dataset and loader into its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exactness_torchvision  # noqa: F401  litdata imports torchvision
import litdata
from cases import BATCH_SIZE, Case, Form, Place
from litdata.streaming import downloader
from rows import Row, collate_of, row_maker


class Rows(litdata.StreamingDataset):
    """The samples as rows."""

    def __init__(self, form: Form, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._make_row = row_maker(form)

    def __getitem__(self, index: Any) -> Row:
        sample = super().__getitem__(index)
        return self._make_row(sample["label"], sample["data"])


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write its chunks."""
    litdata.optimize(
        _make_sample,
        list(enumerate(files)),
        output_dir=str(out),
        num_workers=case.workers,
        chunk_bytes=place.chunk_bytes,
        compression="zstd" if case.way == "compressed" else None,
        verbose=False,
    )


def load(case: Case, place: Place) -> Any:
    """Return its loader."""
    options = {"storage_options": {"endpoint_url": place.endpoint}} if place.remote else {}
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001  # it has no option for that
    source = place.remote or f"local:{place.packed}"
    dataset = Rows(
        case.form, source, cache_dir=str(place.cache), shuffle=case.shuffle, drop_last=False, **options
    )
    return litdata.StreamingDataLoader(
        dataset, batch_size=BATCH_SIZE, num_workers=case.workers, collate_fn=collate_of(case.form)
    )


def _make_sample(numbered: tuple[int, str]) -> dict[str, Any]:
    return {"label": numbered[0], "data": Path(numbered[1]).read_bytes()}
