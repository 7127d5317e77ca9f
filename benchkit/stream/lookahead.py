"""The look-ahead: a thread that fetches the chunks of coming batches before a worker asks for them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from benchkit.errors import BenchKitError
from benchkit.stream.calls import LOOK_SECONDS
from benchkit.stream.course import BatchPlan
from benchkit.stream.early import can_be_early
from benchkit.stream.open_chunk import OpenChunk
from benchkit.stream.patience import start_fetch
from benchkit.stream.source import OpenedVersion

if TYPE_CHECKING:
    from typing_extensions import Self

AHEAD_STEPS = 64
FETCHERS = 4
_NAME = "benchkit-ahead"
_HEAD_START_SECONDS = 0.1
"""How long nothing is fetched ahead, for a first batch to come sooner of which rows may be read early."""
_LAST_FETCH_SECONDS = 1.0
"""How long the end of a pass waits for fetches that are going on; a slower one ends by itself."""


class Lookahead:
    """Fetches ahead of a pass; a context manager, begun by `start` once the workers have been forked.

    A chunk that was fetched ahead is held open, so that nobody evicts it, until the pass has gone beyond the
    batches that need it, or somebody calls for room.

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
        self._pid = os.getpid()
        self._step = 0
        self._planned = 0
        self._stopped = False
        self._changes = 0
        self._changed = threading.Condition()
        self._last_need: dict[int, int] = {}
        self._wanted: deque[int] = deque()
        self._fetching: set[int] = set()
        self._held: dict[int, OpenChunk] = {}
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)

    def __enter__(self) -> Self:
        """Return the look-ahead, which does nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop fetching and let all chunks go; a fetch that stands still is left behind."""
        # The threads are gone already, with whatever locks they held, when Python ends and in a forked child.
        if sys.is_finalizing() or self._pid != os.getpid():
            return
        self._tell(stopped=True)
        if self._thread.ident is not None:
            self._thread.join()
            with self._changed:
                self._changed.wait_for(lambda: not self._fetching, _LAST_FETCH_SECONDS)

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
        """Look ahead, and let all go at the end, whatever ends it."""
        try:
            self._look_ahead()
        except Exception as error:  # noqa: BLE001 - raised again in the training's thread
            self._failure = self._failure or error
        finally:
            with self._changed:
                self._let_go(self._steps)

    def _look_ahead(self) -> None:
        heard = self._opened.cache.last_call()
        if any(map(can_be_early, self._opened.manifest.chunks)):
            with self._changed:
                self._changed.wait_for(lambda: self._step or self._stopped, _HEAD_START_SECONDS)
        while True:
            with self._changed:
                if self._stopped:
                    return
                step, seen = self._step, self._changes
                self._let_go(step)
            self._plan_to(min(step + AHEAD_STEPS, self._steps))
            self._fetch()
            with self._changed:
                while self._changes == seen and (called := self._opened.cache.last_call()) == heard:
                    self._changed.wait(LOOK_SECONDS)
                if self._changes == seen:
                    heard = called
                    self._give_way()

    def _plan_to(self, end: int) -> None:
        """Note which chunks the steps up to `end` need, in the order in which they need them."""
        for step in range(self._planned, end):
            plan = self._plan(step)
            # np.unique is C++ that lets other threads run: Python's end would abort the process in it.
            for chunk in sorted(set(self._opened.order.chunks(plan.epoch, plan.positions).tolist())):
                if chunk not in self._last_need:
                    self._wanted.append(chunk)
                self._last_need[chunk] = step
        self._planned = max(self._planned, end)

    def _fetch(self) -> None:
        """Begin fetches, in threads of their own that keep nobody from ending."""
        with self._changed:
            while self._wanted and len(self._fetching) < min(FETCHERS, self._ahead - len(self._held)):
                chunk = self._wanted.popleft()
                if chunk in self._last_need and chunk not in self._fetching:
                    self._fetching.add(chunk)
                    start_fetch(partial(self._bring, chunk))

    def _bring(self, chunk: int) -> None:
        """Fetch a chunk and hold it; an error is left to the reader, which meets it when it gets there."""
        tar: OpenChunk | None = None
        failure: Exception | None = None
        try:
            tar = self._opened.reader.fetch_ahead(chunk)
        except BenchKitError:
            pass
        except Exception as error:  # noqa: BLE001 - raised again in the training's thread
            failure = error
        with self._changed:
            self._fetching.remove(chunk)
            self._failure = self._failure or failure
            if tar and chunk in self._last_need:
                self._held[chunk] = tar
            elif tar:
                tar.close()
            self._tell()

    def _tell(self, *, steps: int = 0, stopped: bool = False) -> None:
        """Have the thread look again."""
        with self._changed:
            self._step += steps
            self._stopped |= stopped
            self._changes += 1
            self._changed.notify_all()

    def _let_go(self, step: int) -> None:
        """Close what no step from this one on needs."""
        for chunk in [chunk for chunk, last in self._last_need.items() if last < step]:
            del self._last_need[chunk]
            if chunk in self._held:
                self._held.pop(chunk).close()

    def _give_way(self) -> None:
        """Close all that is held: others wait for the room, and readers open what they need themselves."""
        while self._held:
            self._held.popitem()[1].close()
