"""A run's folder: the one owner of its files while a process writes them, and how they are read again.

    <run>/run.json                  the record, replaced whole
    <run>/metrics/000001.jsonl …    a line for each call, appended; the next file begins behind 4 MiB
    <run>/checkpoints/  <run>/model/  the user's own files
    <run>/.lock                     held by the process that writes

A line is handed to the operating system in the call that logs it, so a killed process loses none. What a
kill can leave is a last line without its end: readers skip it, and whoever goes on with the run cuts it off.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchkit.errors import StoreError, UsageError
from benchkit.store.locks import LockedFile, open_locked
from benchkit.train.run_record import (
    MAX_METRICS_FILE_BYTES,
    MAX_RECORD_BYTES,
    METRICS,
    METRICS_FILE_BYTES,
    PARTS,
    RunRecord,
    decode_record,
    encode_record,
)

RUN_FILE = "run.json"

LAUNCHER_LOCK = ".launcher"
"""Held by the process that launched the run's job, if that is another one."""

_LOCK = ".lock"
_METRICS_NAME = re.compile(r"metrics/[0-9]{6}\.jsonl")
_LOCK_TRIES, _LOCK_PAUSE_SECONDS = 20, 0.05


class RunFolder:
    """The folder of a run that this process writes; a second writer is refused.

    Attributes:
        path: Where it is.
        record: What `run.json` in it says.
    """

    def __init__(self, path: Path, record: RunRecord, lock: LockedFile) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._writing = threading.Lock()
        self._metrics: LockedFile | None = None
        self._number = 0
        self._size = 0

    @classmethod
    def create(cls, folder: Path, record: RunRecord) -> RunFolder:
        """Make the folder of a new run in the folder of all runs."""
        path = folder / record.run
        with _told(path):
            for part in PARTS:
                (path / part).mkdir(parents=True)
            made = cls(path, record, _hold(path))
            made.update()
            made._open_metrics(1)
        return made

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Take up a run that no process writes any more; a torn last line is cut off.

        Raises:
            UsageError: Another process writes it.
        """
        with _told(path):
            lock = _hold(path)
            try:
                reopened = cls(path, read_record(path), lock)
                files = metrics_files(path)
                reopened._open_metrics(int(files[-1].stem) if files else 1)
            except BaseException:
                lock.close()
                raise
        return reopened

    def append(self, line: bytes) -> None:
        """Write a line of metrics.

        Raises:
            StoreError: It cannot be written, and was not; the disk is full, for instance.
            UsageError: This process is a forked copy of the one that writes the run, or has closed it.
        """
        if not self.is_open:  # asked before the lock, which a fork may have copied while it was held
            raise UsageError(
                f"run {self.record.run} is not open for writing in process {os.getpid()}: it is finished, or "
                "another process writes it; log in the process that began the run"
            )
        with self._writing:
            if self._size >= METRICS_FILE_BYTES or self._metrics is None:
                with _told(self.path):
                    self._open_metrics(self._number + 1)
            self._write(line)

    def update(self, **changes: Any) -> None:
        """Change the record, and write it: whole or not at all."""
        with self._writing, _told(self.path):
            record = replace(self.record, **{"updated": time.time()} | changes)
            write_whole(self.path / RUN_FILE, encode_record(record))
            self.record = record

    def close(self) -> None:
        """Let the run go; a second call does nothing."""
        with self._writing:
            if self._metrics:
                self._metrics.close()
            self._lock.close()

    @property
    def is_open(self) -> bool:
        """Whether this process may write it: not once it is closed, nor in a forked child."""
        return self._lock.fd >= 0

    def _write(self, line: bytes) -> None:
        fd = self._metrics.fd if self._metrics else -1
        try:
            written = os.write(fd, line)
            if written != len(line):
                os.write(fd, line[written:])  # which says why
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(fd, self._size)
                os.lseek(fd, self._size, os.SEEK_SET)
            raise StoreError(
                f"metrics were not written to {self.path}: {error.strerror}; make room, and log them again"
            ) from error
        self._size += len(line)

    def _open_metrics(self, number: int) -> None:
        path = self.path / f"{METRICS}{number:06d}.jsonl"
        file = open_locked(path, shared=False, create=True)
        if file is None:
            raise UsageError(f"{path} is held by another process")
        self._size = _whole_lines(path.read_bytes())
        os.ftruncate(file.fd, self._size)
        os.lseek(file.fd, self._size, os.SEEK_SET)
        if self._metrics:
            self._metrics.close()
        self._metrics, self._number = file, number


def read_record(path: Path) -> RunRecord:
    """Return the record of the run in a folder.

    Raises:
        FileNotFoundError: There is none.
        FormatError: It is none.
    """
    with open(path / RUN_FILE, "rb") as file:
        return decode_record(file.read(MAX_RECORD_BYTES + 1), what=str(path / RUN_FILE))


def is_written(path: Path) -> bool:
    """Return whether a process writes the run in a folder at this moment, or waits for one that may."""
    return _is_held(path / _LOCK) or _is_held(path / LAUNCHER_LOCK)


def hold_ended(path: Path) -> LockedFile:
    """Return the lock of a run that no process writes: while it is held, none begins to.

    Raises:
        UsageError: A process writes it.
        StoreError: The folder cannot be written.
    """
    with _told(path):
        return _hold(path)


def _is_held(path: Path) -> bool:
    try:
        lock = open_locked(path, shared=True, blocking=False)
    except OSError:
        return False
    if lock:
        lock.close()
    return lock is None


def metrics_files(path: Path) -> list[Path]:
    """Return the files of metrics of the run in a folder, oldest first."""
    files = sorted((path / METRICS).glob("*.jsonl"))
    return [file for file in files if is_metrics_name(METRICS + file.name)]


def is_metrics_name(name: str) -> bool:
    """Return whether a path in a run's folder is that of a file of metrics."""
    return _METRICS_NAME.fullmatch(name) is not None


def read_lines(path: Path) -> bytes:
    """Return the whole lines of a file of metrics; what stands behind the last line's end is left out."""
    with open(path, "rb") as file:
        data = file.read(MAX_METRICS_FILE_BYTES)
    return data[: _whole_lines(data)]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside and rename it into place, so that no reader and no kill sees half of it."""
    aside = path.with_name(f".{path.name}.new")
    with open(aside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _hold(path: Path) -> LockedFile:
    """Return the lock of a run's writer; a reader may hold it for a moment."""
    for _ in range(_LOCK_TRIES):
        lock = open_locked(path / _LOCK, shared=False, create=True, blocking=False)
        if lock:
            return lock
        time.sleep(_LOCK_PAUSE_SECONDS)
    raise UsageError(
        f"run {path.name} is being written by another process: wait until that has ended; without "
        "resume=True a script begins a run of its own"
    )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into the project's."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"the run's folder {path} cannot be written: {error.strerror}; make room") from error
