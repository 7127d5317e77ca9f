"""The worker processes of a pass: how they begin, how a death or a stall is heard, how they end.

torch tells of a worker's death by raising wherever the training happens to be. Here it is told where the
loader waits for a batch, and only there. Its private corners that this takes are all in this file.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._C import _error_if_any_worker_fails, _remove_worker_pids, _set_worker_pids

from benchkit.errors import StallError
from benchkit.stream.patience import STDERR, dump_stacks

_SHOW_STACKS = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""What makes a worker write its stacks; a real-time signal, where there are any, is nobody else's."""
_PARENT_SECONDS = 1.0
"""How often a worker looks whether its parent lives."""
_LAST_BATCH_SECONDS = 2.0
"""How long workers may go on with what they have begun when their pass is over."""
_STACKS_SECONDS = 0.3
_END_SECONDS = 1.0


def begin_worker(_: int) -> None:
    """Make this worker end with its parent, and write its stacks when it is asked to; run in every worker.

    A worker whose parent was killed would else wait for ever to hand over its batch, with its chunks held.
    """
    faulthandler.register(_SHOW_STACKS, file=STDERR, all_threads=True)
    threading.Thread(target=_end_with_parent, name="benchkit-parent", daemon=True).start()


def prepare_folder() -> None:
    """Make the folder of sockets between workers and this process, so that it goes when this process does."""
    multiprocessing.util.get_temp_dir()


def take_over(loaded: Iterator[Any]) -> None:
    """Keep torch from telling of these workers' deaths; `waiting_for` does."""
    if getattr(loaded, "_worker_pids_set", False):
        _remove_worker_pids(id(loaded))
        loaded._worker_pids_set = False  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def waiting_for(loaded: Iterator[Any] | None, *, name: str, seconds: float) -> Iterator[None]:
    """Make a time-out, or the death of a worker before or meanwhile, a `StallError`.

    Args:
        loaded: The iterator that owns the workers; None, or one without workers, raises what it raises.
        name: The dataset, for the message.
        seconds: How long its next batch is waited for, for the message.
    """
    workers = _workers(loaded)
    try:
        with _hearing(loaded, workers):
            yield
    except (RuntimeError, OSError, EOFError) as error:
        if "DataLoader timed out" in str(error):
            _show_stacks(workers)
            raise StallError(
                f"no batch of {name!r} within {seconds:g} s; where each thread stands is on stderr"
            ) from error
        if any(not worker.is_alive() for worker in workers):
            raise StallError(f"a worker that reads {name!r} died: {error}") from error
        raise


def end_workers(loaded: Iterator[Any] | None, *, at_once: bool) -> None:
    """End the workers: at once, or when they have finished the batch in hand, if that is soon.

    A worker that is killed may leave files of shared memory behind, and may hold a lock for which torch's own
    end would wait for ever.
    """
    end = getattr(loaded, "_shutdown_workers", None)
    if end is None or sys.is_finalizing():  # when Python ends, its processes do, and threads no longer start
        return
    if at_once:
        _kill(loaded)
        ending = threading.Thread(target=end, name="benchkit-ending", daemon=True)
        ending.start()
        ending.join(_END_SECONDS)
        return
    late = threading.Timer(_LAST_BATCH_SECONDS, _kill, [loaded])
    late.daemon = True
    late.start()
    end()
    late.cancel()
    late.join()


@contextmanager
def _hearing(loaded: object, workers: list[Any]) -> Iterator[None]:
    """Have torch raise if a worker has died or dies meanwhile, even while a pipe is being read."""
    if not workers:
        yield
        return
    _set_worker_pids(id(loaded), tuple(worker.pid for worker in workers))
    try:
        _error_if_any_worker_fails()
        yield
    finally:
        _remove_worker_pids(id(loaded))


def _show_stacks(workers: list[Any]) -> None:
    """Write the stacks of all threads to stderr, of this process and of the workers that live."""
    dump_stacks()
    for worker in workers:
        if worker.is_alive():
            os.kill(worker.pid, _SHOW_STACKS)
    time.sleep(_STACKS_SECONDS)


def _workers(loaded: Iterator[Any] | None) -> list[Any]:
    return list(getattr(loaded, "_workers", ()))


def _kill(loaded: Iterator[Any] | None) -> None:
    for worker in _workers(loaded):
        worker.kill()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    served = multiprocessing.get_start_method(allow_none=True) == "forkserver"
    expected = os.getppid() if parent is None or served else parent.pid
    while os.getppid() == expected:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)
