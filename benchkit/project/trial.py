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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """What a trial saw.

    Attributes:
        version: The staged version, as `train@1`.
        samples: Samples that arrived, each once.
        rows: Rows that `_data_iterator` made of them.
        batches: Batches that collated.
        seconds: How long it took.
    """

    version: str
    samples: int
    rows: int
    batches: int
    seconds: float


def try_dataset(
    dataset: UserDataset, *, workers: int = 2, on_progress: Callable[[int, int], None] | None = None
) -> TrialReport:
    """Stream a staged dataset once, as training would, and prove that every sample arrives once.

    Args:
        dataset: What to stream.
        workers: Worker processes.
        on_progress: Called with samples that arrived and samples in all.

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
    total = len(loader.dataset)  # type: ignore[arg-type]
    counts = np.zeros(total, dtype=np.int64)

    def count(report: BatchReport) -> None:
        np.add.at(counts, report.handed, 1)
        if on_progress:
            on_progress(min(int(counts.sum()), total), total)

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
        version=loader.version_label,
        samples=total,
        rows=report.rows,
        batches=batches,
        seconds=time.monotonic() - started,
    )
