"""One batch at a time: the user's `_data_iterator` is run over a batch's samples, wherever that happens."""

from __future__ import annotations

import traceback
from collections.abc import Callable
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
from benchkit.stream.source import Assigned

MOST_ROWS = 64
"""An iterator that makes more rows than these for each sample of a batch is taken for one without end."""


class LoadedBatch(NamedTuple):
    """A collated batch, None when it has no rows, and what became of it."""

    data: Any
    report: BatchReport


class BatchSource(Dataset[Any]):
    """A map-style view of a chunk dataset whose indices are batch plans, and whose items are batches.

    Args:
        chunk: The user's dataset.
        collate_fn: Makes a batch of a list of rows.
        on_error: What happens to a sample that cannot be decoded.
        timeout_seconds: The longest wait for a chunk without anything moving.
    """

    def __init__(
        self,
        chunk: IterableChunk,
        *,
        collate_fn: Callable[[list[Any]], Any],
        on_error: OnError,
        timeout_seconds: float,
    ) -> None:
        self._chunk = chunk
        self._collate_fn = collate_fn
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

    def __getitems__(self, plan: Any) -> LoadedBatch:
        """Return the batch of the rows that `_data_iterator` makes of a plan's samples."""
        if not isinstance(plan, BatchPlan):
            return self[plan]
        source, report = source_of(self._chunk), BatchReport(asked=len(plan.positions))
        reader = source.open().reader
        reader.keep, reader.timeout_seconds = plan.keep, self._timeout_seconds
        sliced_before = reader.rows_read
        seed = mix_seed(source.selection.seed, plan.epoch, plan.start, int(plan.positions[0]))
        data = None
        for read in (self._read, self._read_carefully):
            with self._randomness.seeded(seed):
                if (rows := read(plan, report)) is not None:
                    data = self._collate(rows, report)
                    break
        report.sliced = reader.rows_read - sliced_before
        if not report.failure:
            reader.trim()
        return LoadedBatch(data, report)

    def _read(self, plan: BatchPlan, report: BatchReport) -> list[Any] | None:
        """Return the rows of a plan's samples; None where one of them has failed."""
        assigned = source_of(self._chunk).assign(plan.epoch, plan.positions, early=plan.early)
        try:
            rows = list(islice(self._chunk._data_iterator(), MOST_ROWS * report.asked + 1))  # noqa: SLF001
            self._check_end(len(rows), report)
        except Exception as error:  # noqa: BLE001 - what the user's code raises is told with its sample
            return [] if self._is_of_none(error, assigned, report) else None
        report.handed = assigned.handed
        return rows

    def _read_carefully(self, plan: BatchPlan, report: BatchReport) -> list[Any]:
        """Return the rows of a plan's samples without those that fail, which are told."""
        rows, positions = list[Any](), plan.positions
        while len(positions) and not report.failure:
            positions = self._add(rows, plan.epoch, positions, report)
        return rows

    def _add(
        self, rows: list[Any], epoch: int, positions: npt.NDArray[np.int64], report: BatchReport
    ) -> npt.NDArray[np.int64]:
        """Add the rows of these samples up to one that fails; return the positions behind that."""
        assigned = source_of(self._chunk).assign(epoch, positions)
        kept, known, last_alone = len(rows), 0, True
        try:
            for row in self._chunk._data_iterator():  # noqa: SLF001
                rows.append(row)
                self._check_end(len(rows) - kept, report)
                known, before = len(assigned.handed), known
                last_alone &= known <= before + 1
        except Exception as error:  # noqa: BLE001 - what the user's code raises is told with its sample
            handed = assigned.handed
            if self._is_of_none(error, assigned, report):
                return positions[:0]
            if last_alone and len(handed) <= known + 1:
                report.handed = np.concatenate([report.handed, handed])
                self._leave_out(error, assigned, report)
            else:  # of an iterator that reads ahead, or yields less than it reads, it can be any
                del rows[kept:]
                self._add_singly(rows, error, assigned, report)
            return assigned.rest
        report.handed = np.concatenate([report.handed, assigned.handed])
        return positions[:0]

    def _check_end(self, rows: int, report: BatchReport) -> None:
        if rows > MOST_ROWS * report.asked:
            raise DatasetError(
                f"{type(self._chunk).__name__}._data_iterator made over {rows - 1} rows of a batch: it has "
                "to end where the samples end"
            )

    def _is_of_none(self, error: Exception, assigned: Assigned, report: BatchReport) -> bool:
        """Return whether an error is that of no sample, and make it the batch's failure then."""
        if len(assigned.handed) and (isinstance(error, SampleError) or not isinstance(error, BenchKitError)):
            return False
        _fail(report, error, f"{type(self._chunk).__name__}._data_iterator failed")
        return True

    def _add_singly(self, rows: list[Any], error: Exception, assigned: Assigned, report: BatchReport) -> None:
        """Add the rows of the samples handed out, each by itself, to find which of them the error is of."""
        known, handed = len(report.errors), assigned.handed
        for place in range(len(handed)):
            self._add(rows, assigned.epoch, handed[place : place + 1], report)
            if report.failure:
                return
        if len(report.errors) == known:
            _fail(report, error, f"{type(self._chunk).__name__}._data_iterator failed, of no sample alone")

    def _leave_out(self, error: Exception, assigned: Assigned, report: BatchReport) -> None:
        """Count the sample that was handed out last as left out, or make its error the batch's failure."""
        message = f"{assigned.describe_last()}: {type(error).__name__}: {error}"
        report.errors[int(assigned.handed[-1])] = message
        if self._on_error == "raise":
            text = f"{type(self._chunk).__name__}._data_iterator failed at {message}"
            report.failure = (SampleError(text), _format(error))

    def _collate(self, rows: list[Any], report: BatchReport) -> Any:
        """Return a batch of as many rows as there are samples, None of no rows; an error ends the pass."""
        if report.failure or not rows:
            return None
        report.rows = len(rows)
        if len(rows) != report.asked:
            rows = [rows[number % len(rows)] for number in range(report.asked)]
        try:
            data = self._collate_fn(rows)
            _check_batch(data)
            return pack(data) if get_worker_info() else data
        except Exception as error:  # noqa: BLE001 - the user's rows raise what they like
            hint = ""
            if self._collate_fn is default_collate:
                hint = " (yield tensors, arrays or numbers of equal shapes, or give the class a collate_fn)"
            whose = f"rows of {type(self._chunk).__name__}._data_iterator"
            message = f"{whose} do not make a batch: {type(error).__name__}: {error}{hint}"
            report.failure = (SampleError(message), _format(error))
            return None


def as_it_is(batch: LoadedBatch) -> LoadedBatch:
    """Return the batch: it is collated already, where it was read."""
    return batch


def _check_batch(data: Any) -> None:
    """Refuse None, which stands for a batch without rows."""
    if data is None:
        raise TypeError("collate_fn returned None")


def _fail(report: BatchReport, error: Exception, what: str) -> None:
    """Make an error the batch's failure that is no sample's."""
    if not isinstance(error, BenchKitError):
        report.failure = (SampleError(f"{what}: {type(error).__name__}: {error}"), _format(error))
    else:
        report.failure = (error, _format(error))


def _format(error: Exception) -> str:
    return "".join(traceback.format_exception(error))
