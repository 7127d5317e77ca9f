"""The trial: staged chunks through the user's own `IterableChunk`, each sample counted, before any upload."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchkit.errors import BenchKitError, DatasetError
from benchkit.project.userdata import UserDataset
from benchkit.stream.loader import ChunkLoader, get_dataset
from benchkit.stream.options import LoaderOptions, Shard
from benchkit.stream.reports import BatchReport
from benchkit.stream.source import Selection, open_version

BATCH_SIZE = 32
"""The most samples of a batch, of which there are several in memory."""
BATCH_BYTES = 64 << 20
"""A batch of larger samples has fewer, but two, so that they show whether they can be put together."""

Progress = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """What a trial saw.

    Attributes:
        version: The staged version, as `train@1`.
        samples: Samples that arrived, each once.
        rows: Rows that `_data_iterator` made of them, without those of samples that fill the last batch up.
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
        DatasetError: The chunk class cannot be made or reads something else, or a sample was not handed to
            `_data_iterator` exactly as often as it should be.
        NotFoundError: The dataset has not been packed.
    """
    started = time.monotonic()
    staged = open_version(Selection(name=dataset.name))
    total, tar_bytes = staged.order.total, staged.manifest.tar_bytes
    batch_size = min(max(BATCH_BYTES * total // tar_bytes, 2), BATCH_SIZE, total)
    loader = _make_loader(dataset, batch_size, workers)
    opened = loader.opened
    if opened.selection.cloud or opened.selection.name != dataset.name:
        raise DatasetError(
            f"{dataset.chunk_class.__name__} reads {opened.version.label} of {opened.store.url}, not "
            f"{dataset.name!r} of staging: hand both on, with super().__init__(name, cloud)"
        )
    counts = np.zeros(total, dtype=np.int64)

    handed, rows = 0, 0

    def count(report: BatchReport) -> None:
        nonlocal handed, rows
        np.add.at(counts, report.handed, 1)
        real = min(len(report.handed), total - handed)
        handed += real
        rows += report.rows * real // max(len(report.handed), 1)
        if on_progress:
            on_progress((handed, total), (tar_bytes * handed // total, tar_bytes))

    loader.on_report = count
    batches = sum(1 for _ in loader)
    padding = np.arange(batches * batch_size - total) % total
    np.subtract.at(counts, padding, 1)
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        raise DatasetError(
            f"{len(wrong)} of the {total} samples of {dataset.name!r} were not handed to "
            f"{dataset.chunk_class.__name__}._data_iterator exactly once: it must go through all that "
            "super()._data_iterator() yields"
        )
    return TrialReport(
        version=opened.version.label,
        samples=total,
        rows=rows,
        batches=batches,
        tar_bytes=tar_bytes,
        seconds=time.monotonic() - started,
    )


def _make_loader(dataset: UserDataset, batch_size: int, workers: int) -> ChunkLoader:
    options = LoaderOptions(shard=Shard(index=0, count=1))
    try:
        return get_dataset(
            dataset.chunk_class,
            False,
            dataset.name,
            batch_size,
            workers,
            *dataset.args,
            loader=options,
            **dataset.kwargs,
        )
    except BenchKitError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{dataset.chunk_class.__name__} cannot be made of args {list(dataset.args)!r:.80} and kwargs "
            f"{dataset.kwargs!r:.80} that main() lists for {dataset.name!r}: {type(error).__name__}: {error}"
        ) from error
