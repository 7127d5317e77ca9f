"""Slots: memory that a worker and the training share, lent for one batch after another.

New memory for every batch would be zeroed, mapped twice and given back, which takes longer than to fill it. A
slot is a file without a name (`memfd_create`), which no kill can leave behind. The training opens it once, by
the worker's descriptor in `/proc`, and its first bytes tell both sides whose it is.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import sys
import weakref
from itertools import count
from typing import Any, NamedTuple

AVAILABLE = sys.platform == "linux" and os.path.isdir("/proc/self/fd")

_STATE, _OPENED = 0, 1
"""Where a slot says whose it is, and that the training has opened it."""
_FREE, _LENT, _GONE = 0, 1, 2
_TOKEN = slice(8, 16)
"""Where it says which worker has made it: the number of a process that has ended may be given to another."""
_HEADER_BYTES = 64
_MOST_SLOTS = 32
"""A worker has at most about so many; what is lent beyond that is not asked back."""


class Worker(NamedTuple):
    """A process that has slots."""

    pid: int
    token: bytes


class Loan(NamedTuple):
    """Memory that is lent: whose, by which numbers there, and how much of the slot is in use."""

    worker: Worker
    slot: int
    fd: int
    length: int


class Slot:
    """A slot in the worker that makes it.

    Args:
        number: Which of the worker's it is.
        capacity: Its bytes.
        token: The worker's.

    Raises:
        OSError: There is not so much memory.
    """

    def __init__(self, number: int, capacity: int, token: bytes) -> None:
        self.number = number
        self.capacity = capacity
        self.fd = os.memfd_create("benchkit")
        try:
            # An error here where there is no memory, and no signal at the first byte.
            os.posix_fallocate(self.fd, 0, _HEADER_BYTES + capacity)
            self.memory = _map(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self.memory[_TOKEN] = token
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory, _HEADER_BYTES))
        self._used: weakref.ref[memoryview] | None = None

    @property
    def state(self) -> int:
        """Free, lent, or gone; what is free may still be in use in this process."""
        return self.memory[_STATE]

    def is_free(self) -> bool:
        """Return whether nobody uses the memory any more."""
        return self.state == _FREE and (self._used is None or self._used() is None)

    def use(self, length: int) -> memoryview:
        """Return the memory: the slot is not free as long as that is held."""
        view = memoryview(self.memory)[_HEADER_BYTES : _HEADER_BYTES + length]
        self._used = weakref.ref(view)
        return view

    def leave(self) -> bool:
        """Let the slot go, if whoever it is lent to has opened it; return whether that is so."""
        if self.state == _LENT and not self.memory[_OPENED]:
            return False
        self.memory[_STATE] = _GONE
        os.close(self.fd)
        return True


class Slots:
    """The slots of this process, which is a worker."""

    def __init__(self) -> None:
        self._worker = Worker(os.getpid(), secrets.token_bytes(8))
        self._numbers = count()
        self._slots: list[Slot] = []

    def take(self, length: int) -> tuple[Slot, memoryview]:
        """Return a slot and memory of so many bytes in it: the smallest that does, or a new one."""
        free = sorted((slot for slot in self._slots if slot.is_free()), key=lambda slot: slot.capacity)
        slot = next((slot for slot in free if slot.capacity >= length), None)
        if slot is None:
            gone = [slot for slot in self._slots if slot.state == _GONE]
            lent = [slot for slot in self._slots if slot.state == _LENT]
            too_many = max(0, len(self._slots) - _MOST_SLOTS)
            left = [slot for slot in (*gone, *free[:1], *lent[:too_many]) if slot.leave()]
            slot = Slot(next(self._numbers), length, self._worker.token)
            self._slots = [*(slot for slot in self._slots if slot not in left), slot]
        return slot, slot.use(length)

    def find(self, address: int) -> Slot | None:
        """Return the slot whose memory begins there, unless it is lent, or None."""
        return next((slot for slot in self._slots if slot.address == address and slot.state == _FREE), None)

    def lend(self, slot: Slot, length: int) -> Loan:
        """Hand the memory's use over to the training."""
        slot.memory[_STATE] = _LENT
        return Loan(self._worker, slot.number, slot.fd, length)


class _Borrowed:
    """A slot in the training's process."""

    def __init__(self, loan: Loan) -> None:
        pid, token = loan.worker
        fd = os.open(f"/proc/{pid}/fd/{loan.fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.memory = _map(fd)
        finally:
            os.close(fd)
        if self.memory[_TOKEN] != token:
            raise ProcessLookupError(f"worker {pid} has ended, and another process has its number")
        self.memory[_OPENED] = 1
        self._used: weakref.ref[memoryview] | None = None

    def use(self, length: int) -> memoryview:
        """Return the memory, which goes back to the worker when that is not held any more."""
        memory = self.memory
        view = memoryview(memory)[_HEADER_BYTES : _HEADER_BYTES + length]
        self._used = weakref.ref(view, lambda _: memory.__setitem__(_STATE, _FREE))
        return view

    def give_away(self) -> bool:
        """Keep what is in use from going back; return whether the slot is of no use any more."""
        if self._used and self._used():
            self.memory[_STATE] = _GONE
            self._used = None
        return self.memory[_STATE] == _GONE


_borrowed: dict[Worker, dict[int, _Borrowed]] = {}


def borrow(loan: Loan) -> memoryview:
    """Return the memory that is lent; it goes back when nobody holds it any more.

    Raises:
        OSError: The worker has ended.
    """
    slots = _borrowed.get(loan.worker)
    if slots is None:
        forget_ended()
        slots = _borrowed[loan.worker] = {}
    slot = slots.get(loan.slot)
    if slot is None:
        for number in [number for number, known in slots.items() if known.memory[_STATE] == _GONE]:
            del slots[number]
        slot = slots[loan.slot] = _Borrowed(loan)
    return slot.use(loan.length)


def forget_ended() -> None:
    """Let the slots go of workers that have ended; what is in use stays until it is not."""
    for worker in list(_borrowed):
        if not os.path.exists(f"/proc/{worker.pid}"):
            _borrowed.pop(worker, None)


def _give_away() -> None:
    """Leave to a forked child what it has from its parent: nobody may write there any more."""
    for slots in list(_borrowed.values()):
        for number, slot in list(slots.items()):
            if slot.give_away():
                slots.pop(number, None)


def _map(fd: int) -> mmap.mmap:
    untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return mmap.mmap(fd, os.fstat(fd).st_size, **untracked)


os.register_at_fork(before=_give_away, after_in_child=_borrowed.clear)
