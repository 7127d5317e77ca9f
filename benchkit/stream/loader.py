"""The loader: a `DataLoader` whose position, epoch and shard live in the main process alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from benchkit.errors import DatasetError, StateError, UsageError
from benchkit.settings import read_local_world
from benchkit.stream.accelerated import place_on_device, registered
from benchkit.stream.batches import BatchSource, LoadedBatch, as_it_is
from benchkit.stream.chunks import IterableChunk, source_of
from benchkit.stream.course import BatchPlan, Course, CourseSampler
from benchkit.stream.lookahead import Lookahead
from benchkit.stream.options import LoaderOptions, Shard, check_count
from benchkit.stream.patience import await_fetches
from benchkit.stream.reports import BatchReport, PassReport
from benchkit.stream.room import machine_lanes
from benchkit.stream.sharing import resolve_shard
from benchkit.stream.source import OpenedVersion
from benchkit.stream.state import LoaderState, read_state
from benchkit.stream.workers import (
    begin_worker,
    end_workers,
    leave_to_parent,
    next_batch,
    prepare_folder,
    putting_off_interrupts,
    take_over,
    waiting_for,
)

_WORKER_SECONDS = 1.0
"""How much longer a worker is waited for than it waits itself: what it tells says more."""


class ChunkLoader(DataLoader[Any]):
    """The loader that `get_dataset` returns; see there. Every new pass is the next epoch.

    Attributes:
        end_of_dataloader: True while the last batch of a pass is in the loop's hands.
        remainder: Real samples in the last global batch of this pass; 0 when it is full.
        report: What the pass that runs, or the last one, did in this process.
        on_report: Called with every batch's report as it arrives.
    """

    use_stateful_dataloader = True

    def __init__(
        self, chunk: IterableChunk, *, batch_size: int, num_workers: int, options: LoaderOptions
    ) -> None:
        batch_size = check_count("batch_size", batch_size, least=1)
        num_workers = check_count("num_workers", num_workers, least=0)
        self.options = options
        self.end_of_dataloader = False
        self.remainder = -1
        self.report = PassReport()
        self.on_report: Callable[[BatchReport], None] | None = None
        self._source = source_of(chunk)
        self._source.serve_loader(timeout_seconds=options.timeout_seconds)
        self._shard: Shard | None = None
        self._epoch, self._position = 0, 0
        self._at_start = True
        self._begun_at = 0
        self._whole = True
        self._to_device = False
        self._pid = os.getpid()
        with_workers: dict[str, Any] = {}
        if num_workers:
            with_workers = {
                "prefetch_factor": options.prefetch_factor,
                "persistent_workers": options.persistent_workers,
                "timeout": options.timeout_seconds + _WORKER_SECONDS,
                "worker_init_fn": begin_worker,
            }
        super().__init__(
            BatchSource(
                chunk,
                collate_fn=options.collate_fn or chunk.collate_fn or default_collate,
                on_error=options.on_error,
                timeout_seconds=options.timeout_seconds,
            ),
            batch_sampler=CourseSampler(batch_size),
            num_workers=num_workers,
            collate_fn=as_it_is,  # type: ignore[arg-type]
            pin_memory=options.pin_memory,
            generator=torch.Generator(),  # its own, so that the training's random numbers are left alone
            **with_workers,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what another process cannot take: the workers, and torch's generator."""
        return self.__dict__ | {"_iterator": None, "generator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, generator=torch.Generator())

    @property
    def _is_accelerate_prepared(self) -> bool:
        """True: Accelerate must leave this loader as it is."""
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, value: bool) -> None:
        """Learn that `prepare` ran: batches go to the device from now on."""
        self._to_device = value

    @property
    def total_batch_size(self) -> int:
        """Samples of a global batch, all processes together."""
        return self._course(0, 0).stride

    def __len__(self) -> int:
        """Return the batches of a pass, the same on every rank; of a resumed pass, those that were left."""
        return self._course(0, self._position if self._at_start else self._begun_at).steps

    @property
    def opened(self) -> OpenedVersion:
        """The version that is read: its number and manifest, its order."""
        return self._source.open()

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that epoch, from its start, unless a loaded state stands in the midst of it."""
        epoch = check_count("epoch", epoch, least=0)
        if not (self._at_start and self._epoch == epoch):
            self._set(epoch, 0)

    def skip_batches(self, batches: int) -> ChunkLoader:
        """Make the next pass begin so many batches later, reading nothing of them, and return the loader."""
        batches = check_count("batches", batches, least=0)
        epoch, position = self._next_start()
        course = self._course(epoch, position)
        self._set(epoch, course.position(batches))
        return self

    def state_dict(self) -> dict[str, int | str | bool]:
        """Return which samples the training loop has received: a few integers and strings."""
        return self._state(self._epoch, self._position).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the state was taken: the next pass yields exactly the samples that were left.

        Raises:
            StateError: The state belongs to another dataset, version, seed, shuffle or number of lanes.
        """
        loaded = read_state(state)
        self._leave_parent()
        selection = self._source.selection
        if selection.version is None and loaded.dataset == selection.name:
            if self._iterator is not None and self.opened.version.digest != loaded.manifest:
                self._end_workers(self._iterator)  # they read the version that was open when they were made
            self._source.open(digest=loaded.manifest)
        loaded.check_fits(self._state(0, 0))
        if loaded.position > self._source.total:
            raise StateError(
                f"the state's position {loaded.position} is behind the {self._source.total} samples"
            )
        self._set(loaded.epoch, loaded.position)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of a pass: B rows each, in the shapes the collate function makes."""
        self._leave_parent()
        epoch, position = self._next_start()
        course = self._course(epoch, position)
        self._epoch, self._position = epoch, position
        self._at_start, self._begun_at = False, position
        self.end_of_dataloader, self.remainder = False, course.remainder
        report = self.report = PassReport()
        opened = self._source.open()
        lanes = machine_lanes(lanes=course.lanes, local=read_local_world(), count=course.shard.count)
        opened.cache.check_limit(
            lanes=min(lanes, len(opened.manifest.chunks)), largest_tar_bytes=max(opened.tar_bytes)
        )
        ahead = opened.room(workers=self.num_workers).ahead
        lookahead = Lookahead(opened, course.plan, course.steps, ahead)
        with self._loading(course) as loaded, registered(self), lookahead:
            try:
                for step, data in enumerate(self._full_batches(loaded, lookahead, course)):
                    self.end_of_dataloader = step + 1 == course.steps
                    self._position = course.position(step + 1)
                    self.report.batches = step + 1
                    yield self._placed(data)
                    if self.report is not report:
                        raise UsageError(
                            "another pass of this loader has begun, and a loader is at one position only: "
                            "make a loader for each of two passes at a time"
                        )
                    if self._at_start:
                        raise UsageError(
                            "the position was set in the midst of a pass, by load_state_dict, set_epoch or "
                            "skip_batches: leave the loop, and begin another"
                        )
            finally:
                if self.report is report:
                    self._begun_at = 0  # where the next pass begins, if this one was broken off
                # When Python ends, files close by themselves; threads have stopped, and may have held locks.
                if not sys.is_finalizing():
                    opened.reader.let_go()
        self._set(epoch + 1, 0)
        self.report.warn_of_other_rows(opened.version.label)

    def _full_batches(
        self, loaded: Iterator[LoadedBatch], lookahead: Lookahead, course: Course
    ) -> Iterator[Any]:
        """Yield one batch of rows per step: in place of an empty one its neighbour, read once more."""
        before: BatchPlan | None = None
        full, waiting, quiet = -1, 0, replace(course, keep=0)
        lookahead.start()
        for step in count():
            if (batch := self._next(loaded)) is None:
                break
            data, report = batch
            lookahead.advance()
            self.report.add(report, max_errors=self.options.max_errors)
            if self.on_report:
                self.on_report(report)
            if data is not None:
                full = step
            elif full < 0 and not waiting:
                before = self._find_full(course.earlier())
            if full < 0 and before is None:
                waiting += 1
                continue
            for _ in range(waiting if data is not None else 1):
                yield self._read_here(before if full < 0 else quiet.plan(full))
            waiting = 0
            if data is not None:
                yield data
        if waiting and self.report.errors:
            raise DatasetError(
                f"none of the {self.report.samples} samples of {self.opened.version.label} that this process "
                f"read could be used; the last: {self.report.errors[-1]}"
            )
        if waiting:
            raise DatasetError(
                f"_data_iterator yielded nothing for all {self.report.samples} samples of "
                f"{self.opened.version.label} that this process read: leave samples out when you pack them"
            )

    def _find_full(self, plans: Iterable[BatchPlan]) -> BatchPlan | None:
        """Return the first plan whose batch has rows, or None."""
        return next((plan for plan in plans if self._read_here(plan) is not None), None)

    def _read_here(self, plan: BatchPlan | None) -> Any:
        """Return a batch that this process reads, whoever has read it before; None where it has no rows."""
        data, report = self.dataset.__getitems__(plan)  # type: ignore[attr-defined]
        PassReport().add(report, max_errors=self.options.max_errors)
        return data

    def _next(self, loaded: Iterator[LoadedBatch]) -> LoadedBatch | None:
        """Return the next batch as it comes, None behind the last."""
        if not self.num_workers:
            return next(loaded, None)
        batch: LoadedBatch | None = next_batch(loaded, **self._wait)
        return batch

    @contextmanager
    def _loading(self, course: Course) -> Iterator[Iterator[LoadedBatch]]:
        """Give the iterator over a pass's batches, and end its workers afterwards unless they persist."""
        if not self._whole:
            self._end_workers(self._iterator)
        self._whole = whole = at_once = False
        loaded: Iterator[LoadedBatch] | None = self._iterator
        prepare_folder()
        forks = self.num_workers > 0 and loaded is None
        if forks:
            await_fetches()
        try:
            with (
                waiting_for(loaded, **self._wait),
                self.batch_sampler.beginning(course),  # type: ignore[union-attr]
                putting_off_interrupts() if forks else nullcontext(),
            ):
                loaded = (
                    super().__iter__() if self.num_workers or self.pin_memory else self._load_here(course)
                )
                take_over(loaded)
            yield loaded
            self._whole = whole = True
        except BaseException as error:
            at_once = not isinstance(error, GeneratorExit)
            raise
        finally:
            if self._pid != os.getpid():
                leave_to_parent(loaded)
            elif not (whole and self.options.persistent_workers):
                self._end_workers(loaded, at_once=at_once)

    def _load_here(self, course: Course) -> Iterator[LoadedBatch]:
        """Yield a pass's batches, read by this process; torch's own way takes longer."""
        for step in range(course.steps):
            yield self.dataset.__getitems__(course.plan(step))  # type: ignore[attr-defined]

    @property
    def _wait(self) -> dict[str, Any]:
        """What is said of a batch that does not come."""
        return {"name": self._source.selection.name, "seconds": self.options.timeout_seconds}

    def _leave_parent(self) -> None:
        """Forget the workers of the process that this one was forked from."""
        if self._pid != os.getpid():
            leave_to_parent(self._iterator)
            self._iterator, self._pid = None, os.getpid()

    def _end_workers(self, loaded: Iterator[LoadedBatch] | None, *, at_once: bool = False) -> None:
        end_workers(loaded, at_once=at_once)
        if self._iterator is loaded:
            self._iterator = None

    def _placed(self, data: Any) -> Any:
        return place_on_device(data, non_blocking=self.options.pin_memory) if self._to_device else data

    def _next_start(self) -> tuple[int, int]:
        """Return epoch and position of the next pass: after a pass that was broken off, the next epoch."""
        return (self._epoch, self._position) if self._at_start else (self._epoch + 1, 0)

    def _set(self, epoch: int, position: int) -> None:
        self._epoch, self._position, self._at_start = epoch, position, True

    def _course(self, epoch: int, position: int) -> Course:
        self._shard = resolve_shard(self.options.shard, self._shard)
        opened = self._source.open()
        return Course(
            epoch=epoch,
            start=position,
            total=opened.order.total,
            lanes=opened.selection.lanes,
            batch_size=self.batch_sampler.batch_size,  # type: ignore[union-attr]
            shard=self._shard,
            drop=self.options.tail == "drop",
            keep=opened.room(workers=self.num_workers).keep,
            readers=max(self.num_workers, 1),
        )

    def _state(self, epoch: int, position: int) -> LoaderState:
        opened = self._source.open()
        selection = opened.selection
        return LoaderState(
            dataset=selection.name,
            manifest=opened.version.digest,
            seed=selection.seed,
            shuffle=selection.shuffle,
            lanes=selection.lanes,
            epoch=epoch,
            position=position,
        )


def get_dataset(
    chunk_class: type[IterableChunk],
    cloud: bool,
    dataset_name: str,
    batch_size: int,
    num_workers: int,
    *args: Any,
    loader: LoaderOptions | None = None,
    **kwargs: Any,
) -> ChunkLoader:
    """Return a loader of a dataset, right under Accelerate, torch.distributed, or alone.

    Args:
        chunk_class: The user's `IterableChunk`.
        cloud: True reads the project's remote store, False its staging.
        dataset_name: Name of the dataset.
        batch_size: Samples per step and process.
        num_workers: Worker processes that read and decode; 0 does it in the training process.
        args: Handed to `chunk_class` behind name and cloud.
        loader: How the loader behaves.
        kwargs: Handed to `chunk_class`.

    Example::

        train = get_dataset(Digits, True, "train", 64, 2, True)
        model, optimizer, train = accelerator.prepare(model, optimizer, train)
        for labels, images in train:
            ...
    """
    if not (isinstance(chunk_class, type) and issubclass(chunk_class, IterableChunk)):
        raise UsageError(f"{chunk_class!r:.80} is no class that inherits benchkit.IterableChunk")
    options = LoaderOptions() if loader is None else loader
    if not isinstance(options, LoaderOptions):
        raise UsageError(f"loader is {loader!r:.80}, not a LoaderOptions(...)")
    chunk = chunk_class(dataset_name, cloud, *args, **kwargs)
    return ChunkLoader(chunk, batch_size=batch_size, num_workers=num_workers, options=options)
