"""The trial: staged chunks through the user's own `IterableChunk`, each sample counted, before any upload."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchkit.errors import DatasetError
from benchkit.project.userdata import UserDataset
from benchkit.stream.batches import BatchReport
from benchkit.stream.loader import get_dataset
from benchkit.stream.options import LoaderOptions, Shard

BATCH_SIZE = 32

Progress = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """What a trial saw.

    Attributes:
        version: The staged version, as `train@1`.
        samples: Samples that arrived, each once.
        rows: Rows that `_data_iterator` made of them.
        batches: Batches that collated.
        tar_bytes: Bytes of the chunks, as plain tars.
        seconds: How long it took.
    """

    version: str
    samples: int
    rows: int
    batches: int
    tar_bytes: int
    seconds: float


def try_dataset(
    dataset: UserDataset, *, workers: int = 2, on_progress: Callable[[Progress, Progress], None] | None = None
) -> TrialReport:
    """Stream a staged dataset once, as training would, and prove that every sample arrives once.

    Args:
        dataset: What to stream.
        workers: Worker processes.
        on_progress: Called with samples and with bytes: how many arrived, and how many there are.

    Raises:
        SampleError: A sample cannot be read, decoded or collated; the message names it.
        DatasetError: A sample was not handed to `_data_iterator` exactly as often as it should be.
    """
    started = time.monotonic()
    options = LoaderOptions(shard=Shard(index=0, count=1))
    loader = get_dataset(
        dataset.chunk_class,
        False,
        dataset.name,
        BATCH_SIZE,
        workers,
        *dataset.args,
        loader=options,
        **dataset.kwargs,
    )
    opened = loader.opened
    total, tar_bytes = opened.order.total, opened.manifest.tar_bytes
    counts = np.zeros(total, dtype=np.int64)

    def count(report: BatchReport) -> None:
        np.add.at(counts, report.handed, 1)
        if on_progress:
            done = min(int(counts.sum()), total)
            on_progress((done, total), (tar_bytes * done // total, tar_bytes))

    loader.on_report = count
    batches = sum(1 for _ in loader)
    padding = np.arange(batches * BATCH_SIZE - total) % total
    np.subtract.at(counts, padding, 1)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        raise DatasetError(
            f"{len(wrong)} of the {total} samples of {dataset.name!r} were not handed to "
            f"{dataset.chunk_class.__name__}._data_iterator exactly once: it must go through all that "
            "super()._data_iterator() yields"
        )
    report = loader.report
    return TrialReport(
        version=opened.version.label,
        samples=total,
        rows=report.rows,
        batches=batches,
        tar_bytes=tar_bytes,
        seconds=time.monotonic() - started,
    )
