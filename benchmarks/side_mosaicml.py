"""mosaicml-streaming: MDS shards, streamed by its own dataset and loader into its cache."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import exactness_torchvision  # noqa: F401  mosaicml-streaming imports torchvision
import streaming
from cases import BATCH_SIZE, Case, Form, Place
from rows import Row, collate_of, row_maker
from streaming.base.util import merge_index


class Rows(streaming.StreamingDataset):
    """The samples as rows."""

    def __init__(self, form: Form, **options: Any) -> None:
        super().__init__(**options)
        self._make_row = row_maker(form)

    def __getitem__(self, at: Any) -> Row:
        sample = super().__getitem__(at)
        return self._make_row(sample["label"], sample["data"])


def pack(files: Sequence[str], out: Path, case: Case, place: Place) -> None:
    """Write MDS shards; each worker writes a part, and the parts' indices are merged."""
    compression = "zstd" if case.way == "compressed" else None
    write = partial(_write, files, out, case.workers, place.chunk_bytes, compression)
    if case.workers == 1:
        write(0)
        return
    with multiprocessing.Pool(case.workers) as pool:
        pool.map(write, range(case.workers))
    merge_index(str(out), keep_local=True)


def load(case: Case, place: Place) -> Any:
    """Return its loader."""
    if place.remote:
        os.environ["S3_ENDPOINT_URL"] = place.endpoint
    dataset = Rows(
        case.form,
        remote=place.remote or str(place.packed),
        local=str(place.cache),
        batch_size=BATCH_SIZE,
        shuffle=case.shuffle,
    )
    for stream in dataset.streams:
        # The connection that fetched the index would be shared by all workers, who get each other's bytes.
        stream._downloader.clean_up()  # noqa: SLF001
    return streaming.StreamingDataLoader(
        dataset, batch_size=BATCH_SIZE, num_workers=case.workers, collate_fn=collate_of(case.form)
    )


def _write(
    files: Sequence[str], out: Path, workers: int, chunk_bytes: int, compression: str | None, worker: int
) -> None:
    folder = out if workers == 1 else out / str(worker)
    columns = {"label": "int", "data": "bytes"}
    options = {"columns": columns, "compression": compression, "size_limit": chunk_bytes}
    with streaming.MDSWriter(out=str(folder), **options) as writer:
        for number in range(worker * len(files) // workers, (worker + 1) * len(files) // workers):
            writer.write({"label": number, "data": Path(files[number]).read_bytes()})
