"""Worker processes: functions called in parallel over what all of them share.

They end with the process that started them, however it ends; a worker that dies is an error, not a hang.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from benchkit.data.memory import give_back, keep_no_large_blocks
from benchkit.errors import StallError

if TYPE_CHECKING:
    from typing_extensions import Self

_Shared = TypeVar("_Shared")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_TASKS_AHEAD = 1
"""How many tasks wait for the next worker that is free; the memory of all those handed out counts."""

_shared: Any = None
"""In a worker process, what its pool shares: handed over once, not with every task."""


class WorkerPool(Generic[_Shared]):
    """Processes that run inside its `with` block.

    Args:
        shared: What every call gets as its first argument. A forked worker inherits it; where processes are
            spawned, it must be picklable.
        workers: How many processes.
    """

    def __init__(self, shared: _Shared, *, workers: int) -> None:
        self._shared = shared
        self._workers = workers

    def __enter__(self) -> Self:
        # Forking is cheap and shares the dataset's memory; elsewhere than on Linux it is not safe.
        method = "fork" if sys.platform == "linux" else "spawn"
        self._executor = ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context(method),
            initializer=_start_worker,
            initargs=(self._shared,),
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads; the workers use none of what those hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            for future in [self._executor.submit(os.getpid) for _ in range(self._workers)]:
                self._result(future)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, function: Callable[[_Shared, _Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Call `function(shared, task)` for every task, and yield the results as they come.

        Tasks are taken from the iterable a few ahead. When calls fail, those handed out before are waited for
        and their results yielded; then the error of the earliest task is raised, the same for any number of
        workers.

        Raises:
            StallError: A worker died.
        """
        numbered = enumerate(tasks)
        running: dict[Future[_Result], int] = {}
        failed: dict[int, Future[_Result]] = {}
        while True:
            while not failed and len(running) < self._workers + _TASKS_AHEAD:
                number, task = next(numbered, (-1, None))
                if task is None:
                    break
                running[self._submit(function, task)] = number
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                if future.exception() is None:
                    yield future.result()
                else:
                    failed[number] = future
        if failed:
            self._result(failed[min(failed)])

    def _submit(self, function: Callable[[_Shared, _Task], _Result], task: _Task) -> Future[_Result]:
        try:
            return self._executor.submit(_call, function, task)
        except BrokenProcessPool as error:
            raise _died() from error

    def _result(self, future: Future[Any]) -> None:
        try:
            future.result()
        except BrokenProcessPool as error:
            raise _died() from error


def _start_worker(shared: Any) -> None:
    """Prepare a worker process."""
    global _shared  # noqa: PLW0603
    _shared = shared
    keep_no_large_blocks()
    gc.freeze()  # the collector would write into every inherited object, and so copy the parent's memory
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(1)  # a forked process cannot use its parent's threads, and would wait for them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[Any, _Task], _Result], task: _Task) -> _Result:
    result = function(_shared, task)
    give_back()
    return result


def _died() -> StallError:
    return StallError(
        "a worker process died (killed, or out of memory?); nothing was published: run it again, it goes on "
        "where it stopped, with fewer workers if memory is short"
    )
