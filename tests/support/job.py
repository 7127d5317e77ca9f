"""Training jobs for tests: ranks that are real processes, forked here, and can be killed at any moment."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from support.noted_store import NotedStore
from support.reading import Numbers, labels_of, make, wait_for

from benchkit.stream.loader import ChunkLoader

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every rank of a job does: passes over a dataset, shuffled, every byte checked.

    Attributes:
        name: The dataset.
        ranks, workers, batch, lanes: Its processes, their workers, its batches, its lanes.
        limit_bytes: The cache's limit for this job.
        epochs: Passes.
        pause_seconds: How long the store takes for 4 KiB.
        fork_at: The batch of the first pass at which every rank forks a child that does nothing; 0 is none.
    """

    name: str
    ranks: int
    limit_bytes: int
    workers: int = 0
    batch: int = 4
    lanes: int = 4
    epochs: int = 1
    pause_seconds: float = 0.0
    fork_at: int = 0

    def loader(self, project: Path) -> ChunkLoader:
        """Return a rank's loader, whose store notes every fetch."""
        loader = make(
            self.name,
            self.batch,
            self.workers,
            chunk=Numbers,
            shuffle=True,
            open_chunks=self.lanes,
            timeout_seconds=30,
        )
        noted = NotedStore(project / "store", pause_seconds=self.pause_seconds, block_bytes=4096)
        loader.opened.reader._store = noted
        return loader

    def run(self, project: Path, tell: Callable[[int, list[int]], None]) -> None:
        """Train, and tell epoch and labels of every batch."""
        loader = self.loader(project)
        for epoch in range(self.epochs):
            for step, batch in enumerate(loader, start=1):
                tell(epoch, labels_of([batch]))
                if (epoch, step) == (0, self.fork_at) and os.fork() == 0:
                    while True:
                        time.sleep(60)


@dataclass
class Job:
    """A training that runs, a context manager: what is left of it is killed at the end.

    Args:
        training: What its ranks do.
        project: The project that they read.
        folder: Where they tell what they do; made anew.

    Attributes:
        ranks: Their process numbers; 0 is one that has ended.
        group: The number of the group of all their processes.
        temporary: Where they make temporary files; its path is short, as those of sockets must be.
    """

    training: Training
    project: Path
    folder: Path
    ranks: list[int] = field(default_factory=list)
    group: int = 0
    temporary: Path = Path()

    def __enter__(self) -> Self:
        """Start the ranks."""
        self.folder.mkdir()
        self.temporary = Path(tempfile.mkdtemp())
        for rank in range(self.training.ranks):
            child = os.fork()
            if child == 0:
                self._rank(rank)
            self.ranks.append(child)
            self.group = self.group or child
            os.setpgid(child, self.group)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what is left."""
        self._kill_group()
        for number, rank in enumerate(self.ranks):
            if rank:
                self._reap(number)
        shutil.rmtree(self.temporary)

    def batches(self, rank: int) -> list[tuple[int, list[int]]]:
        """Return epoch and labels of what a rank has received so far."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / f"rank{rank}").read_text().split("\n")[:-1]
            return [tuple(json.loads(line)) for line in lines]
        return []

    def wait_for_batches(self, rank: int, more: int) -> None:
        """Return when a rank has received so many more batches than now."""
        had = len(self.batches(rank))
        wait_for(lambda: len(self.batches(rank)) >= had + more)

    def result(self, seconds: float = 60) -> list[list[int]]:
        """Return the labels that all ranks together received in each epoch, once all have ended well."""
        troubles = self.troubles(seconds)
        assert not troubles, "\n".join(troubles)
        told: list[list[int]] = [[] for _ in range(self.training.epochs)]
        for number in range(len(self.ranks)):
            for epoch, labels in self.batches(number):
                told[epoch] += labels
        return told

    def troubles(self, seconds: float = 60) -> list[str]:
        """Wait for all ranks to end; return the errors of those that failed."""
        deadline, troubles = time.monotonic() + seconds, []
        for number in range(len(self.ranks)):
            wait_for(lambda number=number: self._has_ended(number), deadline - time.monotonic())
            status = self._reap(number)
            trouble = self.folder / f"trouble{number}"
            if status:
                troubles.append(trouble.read_text() if trouble.exists() else f"rank {number}: {status}")
        return troubles

    def kill(self, rank: int) -> None:
        """Kill a rank, and nothing that it started."""
        os.kill(self.ranks[rank], signal.SIGKILL)
        self._reap(rank)

    def kill_all(self, *, workers: bool) -> None:
        """Kill all ranks that are left, with their workers or without."""
        if workers:
            self._kill_group()
        for number, rank in enumerate(self.ranks):
            if rank:
                self.kill(number)

    def _kill_group(self) -> None:
        if self.lives():
            os.killpg(self.group, signal.SIGKILL)

    def _has_ended(self, number: int) -> bool:
        return os.waitid(os.P_PID, self.ranks[number], os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def lives(self) -> bool:
        """Return whether any process of the job lives, apart from the ranks that have been killed."""
        try:
            os.killpg(self.group or 1 << 30, 0)
        except ProcessLookupError:
            self.group = 0  # the number may be given to others
            return False
        return True

    def _reap(self, number: int) -> int:
        rank, self.ranks[number] = self.ranks[number], 0
        return os.waitpid(rank, 0)[1]

    def _rank(self, rank: int) -> None:
        status = 1
        try:
            os.setpgid(0, self.group)
            self._settle(rank)
            with (self.folder / f"rank{rank}").open("a", buffering=1) as out:
                self.training.run(self.project, lambda *told: out.write(json.dumps(told) + "\n"))
            multiprocessing.util._exit_function()
            status = 0
        except BaseException:  # noqa: BLE001  the parent is told by the status
            (self.folder / f"trouble{rank}").write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def _settle(self, rank: int) -> None:
        """Make this process one that was started by a launcher, as far as the loader can see."""
        torch.set_num_threads(1)  # a forked process cannot use its parent's threads
        tempfile.tempdir = str(self.temporary)
        multiprocessing.current_process()._config.pop("tempdir", None)
        os.environ |= {
            "BENCHKIT_PROJECT": str(self.project),
            "BENCHKIT_CACHE_DIR": str(self.project.parent / "cache"),
            "BENCHKIT_CACHE_LIMIT_BYTES": str(self.training.limit_bytes),
            "RANK": str(rank),
            "WORLD_SIZE": str(self.training.ranks),
            "LOCAL_WORLD_SIZE": str(self.training.ranks),
        }
