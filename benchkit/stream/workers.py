"""The worker processes of a pass: how they begin, how a death or a stall is heard, how they end.

torch tells of a worker's death by raising wherever the training happens to be. Here it is told where the
loader waits for a batch, and only there. Its private corners that this takes are all in this file; where a
torch has them no more, it tells of deaths in its own way, or when the time for a batch is over.
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
from errno import EMFILE, ENFILE
from multiprocessing import connection
from typing import Any

import torch

from benchkit.errors import StallError, UsageError
from benchkit.stream.handover import prepare_worker
from benchkit.stream.patience import STDERR, dump_stacks
from benchkit.stream.slots import can_lend, forget_ended

_HEARS = hasattr(torch._C, "_set_worker_pids")  # noqa: SLF001
"""Whether torch can raise at a worker's death, and be kept from it."""
_SHOW_STACKS = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""What makes a worker write its stacks; a real-time signal, where there are any, is nobody else's."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
_LOOK_SECONDS = 5.0
"""How often it is looked whether workers live; of one that ends with exit code 0 torch hears nothing."""
_LEAST_SECONDS = 0.001
"""None at all would mean to torch that it may wait without end."""
_PARENT_SECONDS = 1.0
"""How often a worker looks whether its parent lives."""
_TIMED_OUT = "DataLoader timed out"
_LAST_BATCH_SECONDS = 2.0
"""How long workers may go on with what they have begun when their pass is over."""
_STACKS_SECONDS = 1.0
"""How long all workers together have for writing their stacks."""
_END_SECONDS = 1.0
_interrupt: Any = None
"""What Ctrl-C does otherwise, while it is put off."""


def begin_worker(_: int) -> None:
    """Make this worker end with its parent, and write its stacks in a crash or when asked to; each runs this.

    A worker whose parent was killed would else wait for ever to hand over its batch, with its chunks held.
    """
    if _interrupt:
        signal.signal(signal.SIGINT, _interrupt)
    prepare_worker()
    faulthandler.disable()  # where it was enabled before torch took the signals, enabling does nothing
    faulthandler.enable(file=STDERR)
    faulthandler.register(_SHOW_STACKS, file=STDERR, all_threads=True)
    threading.Thread(target=_end_with_parent, name="benchkit-parent", daemon=True).start()


def prepare_folder() -> None:
    """Make the folder of sockets between workers and this process, so that it goes when this process does."""
    if not can_lend():  # where slots are lent there are no sockets
        multiprocessing.util.get_temp_dir()


@contextmanager
def putting_off_interrupts() -> Iterator[None]:
    """Put Ctrl-C off while workers are made: where Python forks it is lost, and else leaves some behind."""
    global _interrupt  # noqa: PLW0603 - signals are the process's
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    heard: list[tuple[int, Any]] = []
    _interrupt = handler
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        _interrupt = None
        if heard:
            handler(*heard[0])


def take_over(loaded: Iterator[Any]) -> None:
    """Keep torch from telling of these workers' deaths; `waiting_for` does."""
    if _HEARS and getattr(loaded, "_worker_pids_set", False):
        torch._C._remove_worker_pids(id(loaded))  # noqa: SLF001
        loaded._worker_pids_set = False  # type: ignore[attr-defined]  # noqa: SLF001


def leave_to_parent(loaded: Any) -> None:
    """Keep this process, a fork of the one that made the workers, from ending them."""
    if hasattr(loaded, "_shutdown_workers"):
        loaded._shutdown = True  # noqa: SLF001


def next_batch(loaded: Any, *, name: str, seconds: float) -> Any:
    """Return the next batch that workers have made, None behind the last; the arguments are `waiting_for`'s.

    Raises:
        StallError: A worker has died, or nothing has come in time.
    """
    whole = loaded._timeout  # noqa: SLF001
    end = time.monotonic() + whole
    try:
        while True:
            left = end - time.monotonic()
            loaded._timeout = min(max(left, _LEAST_SECONDS), _LOOK_SECONDS)  # noqa: SLF001
            with waiting_for(loaded, name=name, seconds=seconds):
                try:
                    return next(loaded, None)
                except RuntimeError as error:
                    if _TIMED_OUT not in str(error) or left <= _LOOK_SECONDS:
                        raise
    finally:
        loaded._timeout = whole  # noqa: SLF001


@contextmanager
def waiting_for(loaded: Iterator[Any] | None, *, name: str, seconds: float) -> Iterator[None]:
    """Make a time-out, or a worker's death, a `StallError`, and too many open files a `UsageError`.

    Args:
        loaded: The iterator that owns the workers; None, or one without workers, raises what it raises.
        name: The dataset, for the message.
        seconds: How long its next batch is waited for, for the message.
    """
    workers = _workers(loaded)
    try:
        with _hearing(loaded, workers):
            _check_alive(workers, name)  # of a death that Python has taken note of, torch hears nothing
            yield
    except StallError:
        raise
    except (RuntimeError, OSError, EOFError) as error:
        if _TIMED_OUT in str(error):
            _show_stacks(workers)
            raise StallError(
                f"no batch of {name!r} within {seconds:g} s; where each thread stands is on stderr"
            ) from error
        _check_alive(workers, name, error)
        if isinstance(error, OSError) and error.errno in {EMFILE, ENFILE}:
            raise UsageError(
                f"this process cannot make or hear the workers that read {name!r} ({error}): raise the limit "
                "of open files (ulimit -n), or lower num_workers"
            ) from error
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
    else:
        late = threading.Timer(_LAST_BATCH_SECONDS, _kill, [loaded])
        late.daemon = True
        late.start()
        end()
        late.cancel()
        late.join()
    forget_ended()


@contextmanager
def _hearing(loaded: object, workers: list[Any]) -> Iterator[None]:
    """Have torch raise when a worker dies, even while a pipe is being read."""
    if not (workers and _HEARS):
        yield
        return
    torch._C._set_worker_pids(id(loaded), tuple(worker.pid for worker in workers))  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._remove_worker_pids(id(loaded))  # noqa: SLF001


def _check_alive(workers: list[Any], name: str, cause: BaseException | None = None) -> None:
    ends = [worker.exitcode for worker in workers if not worker.is_alive()]
    if ends:
        raise StallError(f"a worker that reads {name!r} died: it {_describe_end(ends[0])}") from cause


def _describe_end(exit_code: int) -> str:
    """Return how a worker ended, and what to do about it."""
    if exit_code >= 0:
        return (
            f"ended with exit code {exit_code}: something that _data_iterator calls ends its process; see "
            "stderr, or look for it with num_workers=0"
        )
    killed = f"was killed by signal {-exit_code} ({signal.strsignal(-exit_code)})"
    if -exit_code == signal.SIGKILL:
        return (
            f"{killed}, as the kernel does when memory is short (dmesg tells): take fewer num_workers, or a "
            "smaller batch_size or prefetch_factor"
        )
    if -exit_code in _CRASHES:
        return f"{killed}: a library that _data_iterator calls has crashed; the stack is on stderr"
    return f"{killed}: see who sent it"


def _show_stacks(workers: list[Any]) -> None:
    """Write the stacks of all threads to stderr, of this process and of the workers that live."""
    dump_stacks()
    alive = [worker for worker in workers if worker.is_alive()]
    for worker in alive:
        os.kill(worker.pid, _SHOW_STACKS)
        time.sleep(_STACKS_SECONDS / len(alive))  # one after the other, or their lines would be mixed


def _workers(loaded: Iterator[Any] | None) -> list[Any]:
    return list(getattr(loaded, "_workers", ()))


def _kill(loaded: Iterator[Any] | None) -> None:
    for worker in _workers(loaded):
        worker.kill()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent and multiprocessing.get_start_method(allow_none=True) == "forkserver":
        connection.wait([parent.sentinel])  # for the system its parent is the server, which does not end then
        os._exit(1)
    expected = parent.pid if parent else os.getppid()
    while os.getppid() == expected:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)
