"""Patience: waiting for other processes, or a thread of one's own, as long as something moves."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from benchkit.errors import StallError

T = TypeVar("T")

STDERR = 2
_FETCHES_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_LATER_SECONDS = 0.5
"""By how much a call that counts the time itself comes first, and says more."""
_FIRST_PAUSE_SECONDS = 0.001
_fetches: set[int | None] = set()
"""The system's numbers of the threads of this process that wait for a store, and of some that have ended."""


class Patience:
    """Counts the time in which nothing moved.

    Args:
        seconds: How long that may be.
        longest_pause_seconds: Up to what the pauses grow from one to the next.
    """

    def __init__(self, seconds: float, *, longest_pause_seconds: float = 0.05) -> None:
        self.seconds = seconds
        self._longest_pause = longest_pause_seconds
        self._since = time.monotonic()
        self._pause = _FIRST_PAUSE_SECONDS
        self._seen: object = None

    @property
    def idle_seconds(self) -> float:
        """How long nothing has moved."""
        return time.monotonic() - self._since

    def see(self, state: object) -> None:
        """Note what is being waited for; a state other than the last one is a move."""
        if self._seen is not None and state != self._seen:
            self.renew()
        self._seen = state

    def renew(self) -> None:
        """Note that something moved."""
        self._since = time.monotonic()

    def pause(self) -> bool:
        """Sleep a little and return True; return False once patience is at its end."""
        if self.idle_seconds >= self.seconds:
            return False
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, self._longest_pause)
        return True


def start_fetch(call: Callable[[], object]) -> threading.Thread:
    """Begin a thread that waits for a store, and keeps nobody from ending."""
    thread = threading.Thread(target=call, name="benchkit-fetch", daemon=True)
    thread.start()
    _forget_ended()
    _fetches.add(thread.native_id)
    return thread


def await_fetches() -> None:
    """Wait a moment for what this process fetches, as a pass that was broken off may have left it behind.

    To be called before a fork: a lock that a thread holds then (OpenSSL's are among them) is never free in
    the child. OpenSSL takes one even as a thread ends, when Python has it as ended. A fetch that stands still
    holds none.
    """
    patience = Patience(_FETCHES_SECONDS)
    while _forget_ended() and patience.pause():
        pass


def _forget_ended() -> bool:
    """Forget what the system (or else Python) no longer has, and return whether a fetch is left."""
    known = set(_fetches)  # of one that begins meanwhile the system has not told
    try:
        there: set[int | None] = {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:  # no such folder, or too many open files
        there = {thread.native_id for thread in threading.enumerate()}
    _fetches.difference_update(known - there)
    return bool(_fetches)


def call_patiently(call: Callable[[], T], *, state: Callable[[], object], seconds: float, what: str) -> T:
    """Return what the call returns, made in a thread that is left behind when nothing moves for too long.

    Args:
        call: What may stand still: it speaks to a store or waits for one.
        state: What changes as long as it moves.
        seconds: The longest time without a change.
        what: What the call does, for the message.

    Raises:
        StallError: Nothing has changed for so long.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    patience = Patience(seconds)
    thread = start_fetch(run)
    thread.join(_LOOK_SECONDS)
    while thread.is_alive():
        patience.see(state())
        if patience.idle_seconds >= seconds + _LATER_SECONDS:
            raise stall(f"{what} has got nothing for {seconds:g} s")
        thread.join(_LOOK_SECONDS)
    if errors:
        raise errors.pop()
    return results.pop()


def stall(message: str) -> StallError:
    """Return the error, once the stacks of all threads of this process have been written to stderr."""
    dump_stacks()
    return StallError(message)


def dump_stacks() -> None:
    """Write the stacks of all threads of this process to stderr."""
    faulthandler.dump_traceback(file=STDERR, all_threads=True)
