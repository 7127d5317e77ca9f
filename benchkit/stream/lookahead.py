"""The look-ahead: a thread that fetches the chunks of coming batches before a worker asks for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from benchkit.errors import BenchKitError
from benchkit.stream.course import BatchPlan
from benchkit.stream.open_chunk import OpenChunk
from benchkit.stream.source import OpenedVersion

if TYPE_CHECKING:
    from typing_extensions import Self

AHEAD_STEPS = 64
FETCHERS = 4


class Lookahead:
    """Fetches ahead of a pass; a context manager, begun by `start` once the workers have been forked.

    A chunk that was fetched ahead is held open, so that nobody evicts it, until the pass has gone beyond the
    batches that need it.

    Args:
        opened: The version.
        plan: Returns what this process reads at a step.
        steps: Steps of the pass.
        ahead: The most chunks that are held; with 0 nothing is fetched ahead.
    """

    def __init__(
        self, opened: OpenedVersion, plan: Callable[[int], BatchPlan], steps: int, ahead: int
    ) -> None:
        self._opened = opened
        self._plan = plan
        self._steps = steps
        self._ahead = ahead
        self._step = 0
        self._planned = 0
        self._stopped = False
        self._changes = 0
        self._changed = threading.Condition()
        self._last_need: dict[int, int] = {}
        self._wanted: deque[int] = deque()
        self._fetching: dict[int, Future[OpenChunk]] = {}
        self._held: dict[int, OpenChunk] = {}
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="benchkit-lookahead", daemon=True)

    def __enter__(self) -> Self:
        """Return the look-ahead, which does nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop fetching and let all chunks go."""
        self._tell(stopped=True)
        if self._thread.ident is not None:
            self._thread.join()

    def start(self) -> None:
        """Begin, unless there is no room, or the cache holds the whole version already."""
        if self._ahead and not all(self._opened.cache.holds(chunk) for chunk in self._opened.manifest.chunks):
            self._thread.start()

    def advance(self) -> None:
        """Say that a batch has arrived; raise what went wrong in the thread, if anything did."""
        self._tell(steps=1)
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="benchkit-fetch") as pool:
            while True:
                with self._changed:
                    if self._stopped:
                        break
                    step, seen = self._step, self._changes
                self._collect()
                self._let_go(step)
                self._plan_to(min(step + AHEAD_STEPS, self._steps))
                self._fetch(pool)
                with self._changed:
                    while self._changes == seen:
                        self._changed.wait()
        self._collect()
        for tar in self._held.values():
            tar.close()

    def _plan_to(self, end: int) -> None:
        """Note which chunks the steps up to `end` need, in the order in which they need them."""
        for step in range(self._planned, end):
            plan = self._plan(step)
            for chunk in np.unique(self._opened.order.chunks(plan.epoch, plan.positions)).tolist():
                if chunk not in self._last_need:
                    self._wanted.append(chunk)
                self._last_need[chunk] = step
        self._planned = max(self._planned, end)

    def _fetch(self, pool: ThreadPoolExecutor) -> None:
        while self._wanted and len(self._fetching) < min(FETCHERS, self._ahead - len(self._held)):
            chunk = self._wanted.popleft()
            if chunk not in self._last_need:
                continue
            future = self._fetching[chunk] = pool.submit(self._opened.reader.fetch_ahead, chunk)
            future.add_done_callback(self._wake)

    def _wake(self, _: Future[OpenChunk]) -> None:
        self._tell()

    def _tell(self, *, steps: int = 0, stopped: bool = False) -> None:
        """Have the thread look again."""
        with self._changed:
            self._step += steps
            self._stopped |= stopped
            self._changes += 1
            self._changed.notify()

    def _collect(self) -> None:
        """Take over what was fetched; an error is left to the reader, which meets it when it gets there."""
        for chunk, future in list(self._fetching.items()):
            if future.done() or self._stopped:
                del self._fetching[chunk]
                error = future.exception()
                if error is None:
                    self._held[chunk] = future.result()
                elif not isinstance(error, BenchKitError):
                    self._failure = error

    def _let_go(self, step: int) -> None:
        for chunk in [chunk for chunk, last in self._last_need.items() if last < step]:
            del self._last_need[chunk]
            tar = self._held.pop(chunk, None)
            if tar is not None:
                tar.close()
