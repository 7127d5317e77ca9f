"""Locked files: `flock`s that die with their process, and are never left behind in a forked child.

A `flock` belongs to the open file, which a forked child shares: a child that lives on would keep the lock of
a killed parent. So every file locked here is closed in a child as soon as it is forked.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class LockedFile:
    """An open file held by a `flock` until it is closed.

    Attributes:
        fd: The open file descriptor; -1 once it is closed, or in a forked child.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._raw: io.FileIO | None = None

    def close(self) -> None:
        """Let the file and its lock go; a second call does nothing."""
        if self.fd < 0:  # as a collector that runs anywhere finds it: no lock is waited for there
            return
        # When Python ends, its other threads have stopped where they were, with whatever locks they held.
        with contextlib.nullcontext() if sys.is_finalizing() else _NO_FORK:
            if self._raw:
                self._raw.close()
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def writer(self, buffer_bytes: int) -> io.BufferedWriter:
        """Return the file for writing; what its buffer holds when the file is closed or forked is dropped.

        A child that wrote out its copy of the buffer would write the parent's bytes a second time.
        """
        self._raw = io.FileIO(self.fd, "wb", closefd=False)
        return io.BufferedWriter(self._raw, buffer_bytes)

    def downgrade(self) -> None:
        """Turn an exclusive lock into a shared one; Linux lets nobody get it exclusively in between."""
        fcntl.flock(self.fd, fcntl.LOCK_SH)

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def __del__(self) -> None:
        self.close()


def open_locked(
    path: Path, *, shared: bool, create: bool = False, blocking: bool = True, writable: bool = True
) -> LockedFile | None:
    """Open the file and lock it.

    Args:
        path: The file; after locking it is made sure that the path still names what was opened.
        shared: True opens it for reading under a shared lock, False for reading and writing under an
            exclusive one.
        create: Make the file where it is missing, mode 0600.
        blocking: Wait for the lock.
        writable: False opens a file under an exclusive lock for reading only, as a read-only file demands.

    Returns:
        The file, or None where somebody else holds it and `blocking` is False.

    Raises:
        FileNotFoundError: The file is missing and not to be made.
    """
    flags = (os.O_RDONLY if shared or not writable else os.O_RDWR) | (os.O_CREAT if create else 0)
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
    while True:
        with _NO_FORK:
            file = LockedFile(os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            _OPEN.add(file)
        try:
            fcntl.flock(file.fd, mode)
        except BlockingIOError:
            file.close()
            return None
        if names_file(path, file):
            return file
        file.close()


def names_file(path: Path, file: LockedFile) -> bool:
    """Return whether the path is the very file that is open."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file.fd))
    return False


_OPEN: weakref.WeakSet[LockedFile] = weakref.WeakSet()
_NO_FORK = threading.RLock()  # held while a descriptor is open but not in `_OPEN`, or the other way round


def _close_in_child() -> None:
    for file in list(_OPEN):
        file.close()
    _NO_FORK.release()


os.register_at_fork(before=_NO_FORK.acquire, after_in_parent=_NO_FORK.release, after_in_child=_close_in_child)
