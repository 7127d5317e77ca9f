"""The course of a pass: where it starts, how global batches are cut, what each process reads of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data.sampler import Sampler

from benchkit.errors import UsageError
from benchkit.stream.options import Shard
from benchkit.stream.order import batch_positions, count_batches, remainder


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """What a worker is told.

    Attributes:
        epoch: Number of the pass.
        start: First position of the global batch.
        positions: This shard's part of it, (B,), int64.
        keep: Chunks that the reader keeps open afterwards.
        early: Whether rows are read before their chunks are in the cache.
    """

    epoch: int
    start: int
    positions: npt.NDArray[np.int64]
    keep: int
    early: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One pass as it is planned: where it starts, and how its global batches are cut.

    Attributes:
        epoch: Number of the pass.
        start: Position it begins at.
        total: Samples of the dataset.
        lanes: Lanes of the order.
        batch_size: Samples a process gets per step.
        shard: This process's part.
        drop: Whether an incomplete last batch is left out.
        keep: Chunks that a reader keeps open between its batches.
        readers: Processes that read for this one; each lets all go at its last batch.
        steps: Batches from the start to the end.
    """

    epoch: int
    start: int
    total: int
    lanes: int
    batch_size: int
    shard: Shard
    drop: bool
    keep: int
    readers: int
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        steps = count_batches(
            total=self.total,
            position=self.start,
            batch_size=self.batch_size,
            count=self.shard.count,
            drop=self.drop,
        )
        object.__setattr__(self, "steps", steps)

    @property
    def stride(self) -> int:
        """Samples of a global batch."""
        return self.batch_size * self.shard.count

    @property
    def remainder(self) -> int:
        """Real samples in the last global batch; 0 when it is full."""
        left = remainder(
            total=self.total, position=self.start, batch_size=self.batch_size, count=self.shard.count
        )
        return 0 if self.drop else left

    def position(self, steps: int) -> int:
        """Return the position after so many batches of this pass."""
        return self.total if steps >= self.steps else self.start + steps * self.stride

    def plan(self, step: int) -> BatchPlan:
        """Return what this process reads at a step."""
        start = self.start + step * self.stride
        positions = batch_positions(
            total=self.total,
            position=start,
            batch_size=self.batch_size,
            index=self.shard.index,
            count=self.shard.count,
            lanes=self.lanes,
        )
        keep = self.keep if step < self.steps - self.readers else 0
        return BatchPlan(self.epoch, start, positions, keep, early=step == 0)

    def earlier(self) -> Iterator[BatchPlan]:
        """Yield the plans of an undisturbed pass up to where this one starts, the last one first."""
        undisturbed = replace(self, start=0, keep=0)
        yield from map(undisturbed.plan, reversed(range(-(-self.start // self.stride))))


class CourseSampler(Sampler[Any]):
    """The loader's batch sampler: yields the plans of the pass that is beginning."""

    even_batches = True

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.drop_last = False
        self._course: Course | None = None

    @contextmanager
    def beginning(self, course: Course) -> Iterator[None]:
        """Let the pass be iterated, for as long as the loader makes its workers."""
        self._course = course
        try:
            yield
        finally:
            self._course = None

    def __iter__(self) -> Iterator[BatchPlan]:
        """Yield the plans, one per batch.

        Raises:
            UsageError: Somebody else than the loader iterates, to skip batches for instance.
        """
        course = self._course
        if course is None:
            raise UsageError(
                "this loader was rebuilt by somebody else (accelerate.skip_first_batches?), which would lose "
                "samples: call loader.skip_batches(n) instead"
            )
        return (course.plan(step) for step in range(course.steps))
