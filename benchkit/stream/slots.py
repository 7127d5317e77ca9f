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
import struct
import sys
import threading
import weakref
from itertools import count
from typing import Any, NamedTuple

_LENT, _OPENED, _GONE = 0, 1, 2
"""Where a slot says that it is lent, that the training has what was lent, and that it is lent no more."""
_NAME = slice(8, 24)
"""Where it says which one it is: the numbers of descriptors and processes are given to others in time."""
_HEADER_BYTES = 64
_MOST_SLOTS = 32
"""A worker has at most about so many; what is lent beyond that is not asked back."""


class Worker(NamedTuple):
    """A process that has slots."""

    pid: int
    token: int


class Loan(NamedTuple):
    """Memory that is lent: whose, by which numbers there, and how much of the slot is in use."""

    worker: Worker
    slot: int
    fd: int
    length: int

    @property
    def name(self) -> bytes:
        """What the slot says of itself."""
        return struct.pack("=QQ", self.worker.token, self.slot)


def can_lend() -> bool:
    """Return whether this process can have slots that its parent can open."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return False
    try:
        # Of a process that others may not look into, the folder is root's.
        owner = os.stat("/proc/self/fd").st_uid
        os.close(os.memfd_create("benchkit"))
        return os.readlink("/proc/self") == str(os.getpid()) and owner == os.geteuid()
    except OSError:
        return False


class Slot:
    """A slot in the worker that makes it.

    Args:
        worker: The worker.
        number: Which of its slots this is.
        capacity: Bytes.

    Raises:
        OSError: This process may not have so much memory.
    """

    def __init__(self, worker: Worker, number: int, capacity: int) -> None:
        self.capacity = capacity
        fd = os.memfd_create("benchkit")
        try:
            os.posix_fallocate(fd, 0, _HEADER_BYTES + capacity)  # sooner than page by page
            self._memory = _map(fd)
        except BaseException:
            os.close(fd)
            raise
        self._loan = Loan(worker, number, fd, capacity)
        self._memory[_NAME] = self._loan.name
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory, _HEADER_BYTES))
        self._used: weakref.ref[memoryview] | None = None

    @property
    def lent(self) -> bool:
        """Whether the training has it."""
        return bool(self._memory[_LENT])

    @property
    def gone(self) -> bool:
        """Whether it is not to be lent again."""
        return bool(self._memory[_GONE])

    @property
    def used(self) -> bool:
        """Whether this process holds the memory."""
        return self._used is not None and self._used() is not None

    def use(self, length: int) -> memoryview:
        """Return the memory, which is in use as long as that is held."""
        view = memoryview(self._memory)[_HEADER_BYTES : _HEADER_BYTES + length]
        self._used = weakref.ref(view)
        return view

    def lend(self, length: int) -> Loan:
        """Hand the memory over to the training."""
        self._memory[_OPENED] = 0
        self._memory[_LENT] = 1
        return self._loan._replace(length=length)

    def keep(self) -> None:
        """Have the slot not lent again."""
        self._memory[_GONE] = 1

    def leave(self) -> bool:
        """Let the slot go, unless it is lent and yet to be opened; return whether it is let go."""
        if self.lent and not self._memory[_OPENED]:
            return False
        self.keep()
        os.close(self._loan.fd)
        return True


class Slots:
    """The slots of this process, which is a worker; any thread may use them."""

    def __init__(self) -> None:
        self._worker = Worker(os.getpid(), secrets.randbits(64))
        self._numbers = count()
        self._slots: list[Slot] = []
        self._lock = threading.Lock()

    def take(self, length: int) -> tuple[Slot, memoryview]:
        """Return a slot and memory of so many bytes in it: the smallest that does, or a new one."""
        with self._lock:
            free = [slot for slot in self._slots if not (slot.lent or slot.gone or slot.used)]
            free.sort(key=lambda slot: slot.capacity)
            slot = next((slot for slot in free if slot.capacity >= length), None)
            if slot is None:
                self._leave(free[:1])
                slot = Slot(self._worker, next(self._numbers), length)
                self._slots.append(slot)
            return slot, slot.use(length)

    def _leave(self, small: list[Slot]) -> None:
        """Let go what is of no use, and what has been lent longest where there are too many."""
        gone = [slot for slot in self._slots if slot.gone and not slot.used]
        lent = [slot for slot in self._slots if slot.lent and not slot.gone]
        too_many = max(0, len(self._slots) - _MOST_SLOTS)
        for slot in (*small, *gone, *lent[:too_many]):
            if slot.leave():
                self._slots.remove(slot)

    def find(self, address: int) -> Slot | None:
        """Return the slot whose memory begins there, if it can be lent, or None."""
        with self._lock:
            found = (slot for slot in self._slots if slot.address == address)
            return next((slot for slot in found if not (slot.lent or slot.gone)), None)

    def keep_used(self) -> None:
        """Leave what this process holds to a child that is about to be forked, too."""
        for slot in list(self._slots):
            if slot.used:
                slot.keep()


class _Borrowed:
    """A slot in the training's process."""

    def __init__(self, loan: Loan) -> None:
        pid = loan.worker.pid
        fd = os.open(f"/proc/{pid}/fd/{loan.fd}", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = _map(fd)
        finally:
            os.close(fd)
        if self._memory[_NAME] != loan.name:
            raise ProcessLookupError(f"worker {pid} has ended, and another process has its number")
        self._used: weakref.ref[memoryview] | None = None

    @property
    def gone(self) -> bool:
        """Whether it will not be lent again."""
        return bool(self._memory[_GONE])

    def use(self, length: int) -> memoryview:
        """Return the memory, which goes back to the worker when that is not held any more."""
        memory = self._memory
        memory[_OPENED] = 1
        view = memoryview(memory)[_HEADER_BYTES : _HEADER_BYTES + length]
        self._used = weakref.ref(view, lambda _: memory.__setitem__(_LENT, 0))
        return view

    def keep_used(self) -> None:
        """Leave what this process holds to a child that is about to be forked, too."""
        if self._used and self._used():
            self._memory[_GONE] = 1


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
        for number in [number for number, known in slots.items() if known.gone]:
            del slots[number]
        slot = slots[loan.slot] = _Borrowed(loan)
    return slot.use(loan.length)


def forget_ended() -> None:
    """Let the slots go of workers that have ended; what is in use stays until it is not."""
    for worker in list(_borrowed):
        if not os.path.exists(f"/proc/{worker.pid}"):
            _borrowed.pop(worker, None)


def _keep_used() -> None:
    for slots in list(_borrowed.values()):
        for slot in list(slots.values()):
            slot.keep_used()


def _map(fd: int) -> mmap.mmap:
    untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return mmap.mmap(fd, os.fstat(fd).st_size, **untracked)


os.register_at_fork(before=_keep_used, after_in_child=_borrowed.clear)
