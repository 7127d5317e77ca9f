"""The reports: what became of a batch, and of a pass in one process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchkit.errors import BenchKitError, SampleError


@dataclass(slots=True)
class BatchReport:
    """What became of a batch.

    Attributes:
        asked: Rows that the batch is to have.
        handed: Positions of the samples handed to `_data_iterator`, (n,), int64.
        sliced: Rows that were cut out of chunks for that.
        rows: Rows it yielded.
        errors: Samples left out, described, by their position.
        failure: The error that ends the pass, with its traceback as text.
    """

    asked: int = 0
    handed: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sliced: int = 0
    rows: int = 0
    errors: dict[int, str] = field(default_factory=dict)
    failure: tuple[BenchKitError, str] | None = None


@dataclass(slots=True)
class PassReport:
    """What a pass did in this process.

    Attributes:
        batches: Batches yielded.
        samples: Samples handed to `_data_iterator`, padding included.
        rows: Rows it yielded.
        uneven: Batches for which it yielded another number of rows than they have.
        left_out: Samples left out, described, by their position in the epoch's order.
    """

    batches: int = 0
    samples: int = 0
    rows: int = 0
    uneven: int = 0
    left_out: dict[int, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[str, ...]:
        """The samples left out, described."""
        return tuple(self.left_out.values())

    def add(self, report: BatchReport, *, max_errors: int) -> None:
        """Count a batch; raise what ended it."""
        self.samples += len(report.handed)
        self.rows += report.rows
        self.uneven += report.rows != report.asked
        self.left_out |= report.errors  # a sample that also fills up the last batch is one
        if report.failure:
            error, text = report.failure
            raise error from WorkerTracebackError(text)
        if len(self.left_out) > max_errors:
            raise SampleError(
                f"{len(self.left_out)} samples could not be read, more than max_errors={max_errors}; "
                f"the last: {self.errors[-1]}"
            )

    def warn_of_other_rows(self, label: str) -> None:
        """Warn where `_data_iterator` is not one to one, or samples were left out."""
        if self.uneven:
            warnings.warn(
                f"_data_iterator made {self.rows} rows of the {self.samples} samples of {label} that this "
                f"process read ({len(self.left_out)} failed): {self.uneven} of {self.batches} batches were "
                "cut, or filled with repeated rows",
                stacklevel=3,
            )


class WorkerTracebackError(Exception):
    """The traceback of an error where it happened, which may have been another process."""

    def __str__(self) -> str:
        """Return the traceback as Python prints it."""
        return f"\n{self.args[0]}"
