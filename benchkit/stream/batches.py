"""One batch at a time: the user's `_data_iterator` is run over a batch's samples, wherever that happens."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, default_collate, get_worker_info

from benchkit.errors import BenchKitError, DatasetError, SampleError, UsageError
from benchkit.stream.chunks import IterableChunk, source_of
from benchkit.stream.course import BatchPlan
from benchkit.stream.handover import pack
from benchkit.stream.options import OnError
from benchkit.stream.order import mix_seed
from benchkit.stream.randomness import Randomness
from benchkit.stream.reports import BatchReport

MOST_ROWS = 64
"""An iterator that makes more rows than these for each sample of a batch is taken for one without end."""


class Rows(NamedTuple):
    """The rows of a batch before they are collated; exactly B of them, or none at all."""

    rows: list[Any]
    report: BatchReport


class LoadedBatch(NamedTuple):
    """A collated batch, None when it has no rows, and what became of it."""

    data: Any
    report: BatchReport


class BatchSource(Dataset[Any]):
    """A map-style view of a chunk dataset whose indices are batch plans.

    Args:
        chunk: The user's dataset.
        on_error: What happens to a sample that cannot be decoded.
        timeout_seconds: The longest wait for a chunk without anything moving.
    """

    def __init__(self, chunk: IterableChunk, *, on_error: OnError, timeout_seconds: float) -> None:
        self._chunk = chunk
        self._on_error = on_error
        self._timeout_seconds = timeout_seconds
        self._randomness = Randomness()

    def __len__(self) -> int:
        """Return the number of samples of the whole dataset."""
        return source_of(self._chunk).total

    def __getitem__(self, index: object) -> NoReturn:
        """Refuse: only a loader's own plans can be read."""
        raise UsageError(
            f"{type(self._chunk).__name__} has no {index!r}: its loader reads batches in its own order. "
            "To skip batches call loader.skip_batches(n)"
        )

    def __getitems__(self, plan: Any) -> Rows:
        """Return the rows that `_data_iterator` makes of the plan's samples, as many as there are samples."""
        if not isinstance(plan, BatchPlan):
            return self[plan]
        source, report = source_of(self._chunk), BatchReport(asked=len(plan.positions))
        reader = source.open().reader
        reader.keep, reader.timeout_seconds = plan.keep, self._timeout_seconds
        sliced_before = reader.rows_read
        rows: list[Any] = []
        seed = mix_seed(source.selection.seed, plan.epoch, plan.start, int(plan.positions[0]))
        with self._randomness.seeded(seed):
            positions = plan.positions
            while len(positions) and not report.failure:
                source.assign(plan.epoch, positions, early=plan.early)
                positions = self._iterate(rows, report)
        report.sliced = reader.rows_read - sliced_before
        if report.failure:
            return Rows([], report)
        reader.trim()
        report.rows = len(rows)
        if rows and len(rows) != report.asked:
            rows = [rows[number % len(rows)] for number in range(report.asked)]
        return Rows(rows, report)

    def _iterate(self, rows: list[Any], report: BatchReport) -> npt.NDArray[np.int64]:
        """Add the rows of the samples assigned; return the positions left behind one that was left out."""
        source, kept, most = source_of(self._chunk), len(rows), MOST_ROWS * report.asked
        try:
            rows.extend(islice(self._chunk._data_iterator(), most + 1))  # noqa: SLF001
            self._check_end(len(rows) - kept, most)
        except Exception as error:  # noqa: BLE001 - what the user's code raises is told with its sample
            handed, rest = source.handed, source.rest()
            if not len(handed) or not _is_of_sample(error):
                _fail(report, error, f"{type(self._chunk).__name__}._data_iterator failed")
            elif len(handed) <= len(rows) - kept + 1:
                report.handed = np.concatenate([report.handed, handed])
                self._leave_out(error, report)
            else:  # which it is cannot be told of an iterator that reads ahead, or yields less than it reads
                del rows[kept:]
                self._iterate_singly(error, rows, report)
            return rest
        report.handed = np.concatenate([report.handed, source.handed])
        return source.handed[:0]

    def _check_end(self, rows: int, most: int) -> None:
        if rows > most:
            raise DatasetError(
                f"{type(self._chunk).__name__}._data_iterator made over {most} rows of a batch: it has to "
                "end where the samples end"
            )

    def _iterate_singly(self, error: Exception, rows: list[Any], report: BatchReport) -> None:
        """Add the rows of the samples handed out, each by itself, to find which of them the error is of."""
        source, known = source_of(self._chunk), len(report.errors)
        epoch, handed = source.epoch, source.handed
        for place in range(len(handed)):
            source.assign(epoch, handed[place : place + 1])
            self._iterate(rows, report)
            if report.failure:
                return
        if len(report.errors) == known:
            _fail(report, error, f"{type(self._chunk).__name__}._data_iterator failed, of no sample alone")

    def _leave_out(self, error: Exception, report: BatchReport) -> None:
        """Count the sample that was handed out last as left out, or make its error the batch's failure."""
        message = f"{source_of(self._chunk).describe_last()}: {type(error).__name__}: {error}"
        report.errors.append(message)
        if self._on_error == "raise":
            text = f"{type(self._chunk).__name__}._data_iterator failed at {message}"
            report.failure = (SampleError(text), _format(error))


def _is_of_sample(error: Exception) -> bool:
    """Return whether an error can be that of a sample's contents."""
    return isinstance(error, SampleError) or not isinstance(error, BenchKitError)


def _fail(report: BatchReport, error: Exception, what: str) -> None:
    """Make an error the batch's failure that is no sample's."""
    if not isinstance(error, BenchKitError):
        report.failure = (SampleError(f"{what}: {type(error).__name__}: {error}"), _format(error))
    else:
        report.failure = (error, _format(error))


def _format(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


@dataclass(frozen=True, slots=True)
class Collate:
    """Makes a `LoadedBatch` of `Rows`, in the worker.

    Attributes:
        collate_fn: Makes a batch of a list of rows.
        name: Whose rows, for messages: the name of the user's class.
    """

    collate_fn: Callable[[list[Any]], Any]
    name: str

    def __call__(self, rows: Rows) -> LoadedBatch:
        """Collate the rows, if there are any; what goes wrong ends the pass."""
        try:
            data = self.collate_fn(rows.rows) if rows.rows else None
            _check_batch(data, rows)
            return LoadedBatch(pack(data) if get_worker_info() else data, rows.report)
        except Exception as error:  # noqa: BLE001 - the user's rows raise what they like
            message = (
                f"rows of {self.name}._data_iterator do not make a batch: {type(error).__name__}: {error}"
            )
            if self.collate_fn is default_collate:
                message += (
                    " (yield tensors, arrays or numbers of equal shapes, or give the class a collate_fn)"
                )
            rows.report.failure = (SampleError(message), traceback.format_exc())
            return LoadedBatch(None, rows.report)


def _check_batch(data: Any, rows: Rows) -> None:
    """Refuse None, which stands for a batch without rows."""
    if data is None and rows.rows:
        raise TypeError("collate_fn returned None")
