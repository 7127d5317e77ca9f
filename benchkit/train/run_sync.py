"""The way of a run into the project's remote: its files, and last the record that names them.

In the store a run is `experiments/<run>/<path>`. Its record there says which files there are, with sizes and
digests, and is written behind them, so that what it names is there. A file that was sent before and has
changed is taken out of the record first, so that a kill between the two leaves no wrong digest.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchkit.data.catalogue import open_catalogue
from benchkit.errors import BenchKitError, FormatError, ObjectNotFoundError, StoreError, UsageError
from benchkit.format.digests import digest_bytes, digest_file
from benchkit.format.layout import EXPERIMENTS, is_object_name
from benchkit.store.base import Store
from benchkit.train.run_folder import RUN_FILE, is_metrics_name, metrics_files, read_lines
from benchkit.train.run_record import (
    CHECKPOINTS,
    MAX_RECORD_BYTES,
    METRICS,
    MODEL,
    RunFile,
    RunRecord,
    decode_record,
    encode_record,
)

HEARTBEAT_SECONDS = 300.0
"""After how long the record of a run that says nothing new is written again, so that it is seen to live."""

_ENDING_SECONDS = 600.0
_LOG = logging.getLogger(__name__)

Opener = Callable[[], Store]


@dataclass(frozen=True, slots=True)
class _Look:
    """A user's file as it was found; one that is found so again is taken for finished."""

    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something to send: what it will be in the store, where it is, and its bytes if they are at hand."""

    entry: RunFile
    file: Path
    look: _Look | None = None
    data: bytes | None = None


class RunSender:
    """Sends what is new of one run.

    Args:
        path: The run's folder.
        open_store: Opens the remote; called at the first sending.
    """

    def __init__(self, path: Path, open_store: Opener) -> None:
        self._path = path
        self._open_store = open_store
        self._store: Store | None = None
        self._files: dict[str, RunFile] = {}
        self._looks: dict[str, _Look] = {}
        self._settled: dict[str, _Look] = {}
        self._refused: set[str] = set()
        self._written: RunRecord | None = None
        self._written_at = time.monotonic()

    def send(self, record: RunRecord, *, final: bool) -> int:
        """Send what the store lacks, and return how many files went.

        Args:
            record: The run's record as it is now.
            final: Whether the run writes no more: files count as finished, and the model goes too.

        Raises:
            BenchKitError: The store failed, or a file cannot be read; what was sent before stays.
        """
        try:
            if self._store is None:
                self._store = self._open(record)
            pieces = list(self._new_metrics())
            sent = self._send_pieces(self._store, record, pieces)
            files = list(self._new_files(final=final))
            known = [self._files.pop(piece.entry.path, None) for piece in files]
            if any(known):
                self._write_record(self._store, record)
            return sent + self._send_pieces(self._store, record, files)
        except BenchKitError:
            raise
        except OSError as error:
            raise StoreError(f"run {record.run} in {self._path} cannot be read: {error}") from error

    def _open(self, record: RunRecord) -> Store:
        """Open the store, and learn what it has of the run."""
        store = self._open_store()
        open_catalogue(store, create=True)
        there = read_stored(store, record.run)
        if there:
            ours = sum(len(read_lines(file)) for file in metrics_files(self._path))
            if metrics_bytes(there) > ours:
                raise UsageError(
                    f"{store.url} has more of run {record.run} than {self._path}, which is an older copy: "
                    "nothing was sent"
                )
            self._files = {file.path: file for file in there.files}
            self._written = there
        return store

    def _new_metrics(self) -> Iterator[_Piece]:
        for file in metrics_files(self._path):
            path = METRICS + file.name
            known = self._files.get(path)
            if known is None or known.size != file.stat().st_size:
                data = read_lines(file)
                entry = RunFile(path=path, size=len(data), digest=digest_bytes(data))
                if entry != known:
                    yield _Piece(entry, file, data=data)

    def _new_files(self, *, final: bool) -> Iterator[_Piece]:
        """Yield checkpoints that are as they were at the last look; at the end all files, the model's too."""
        looks = {}
        for folder in (CHECKPOINTS, MODEL) if final else (CHECKPOINTS,):
            for path, file in self._user_files(folder):
                with suppress(FileNotFoundError):  # an older checkpoint that is removed just now
                    looks[path] = look = _look(file)
                    if self._settled.get(path) == look or not (final or self._looks.get(path) == look):
                        continue
                    entry = RunFile(path=path, size=look.size, digest=_digest(file))
                    if self._files.get(path) == entry:
                        self._settled[path] = look
                    else:
                        yield _Piece(entry, file, look)
        self._looks = looks

    def _user_files(self, folder: str) -> Iterator[tuple[str, Path]]:
        for where, folders, names in os.walk(self._path / folder):
            folders.sort()
            for name in sorted(names):
                file = Path(where, name)
                path = file.relative_to(self._path).as_posix()
                if not file.is_file():
                    continue
                if is_object_name(path):
                    yield path, file
                elif path not in self._refused:
                    self._refused.add(path)
                    _LOG.warning("%a is not sent: a store takes no such name", path)

    def _send_pieces(self, store: Store, record: RunRecord, pieces: list[_Piece]) -> int:
        """Send pieces, and then the record that names them."""
        sent = 0
        for piece in pieces:
            name = stored_name(record.run, piece.entry.path)
            if piece.look is None:
                store.write(name, piece.data or b"")
            elif not _write_file(store, name, piece.file, piece.look):
                continue  # it has changed or gone, and is looked at again
            else:
                self._settled[piece.entry.path] = piece.look
            self._files[piece.entry.path] = piece.entry
            sent += 1
        self._write_record(store, record)
        return sent

    def _write_record(self, store: Store, record: RunRecord) -> None:
        """Write the record, unless the store has it and has been told not long ago."""
        record = replace(record, files=tuple(self._files[path] for path in sorted(self._files)))
        now = time.monotonic()
        beating = record.state == "running" and now - self._written_at > HEARTBEAT_SECONDS
        if record != self._written or beating:
            store.write(stored_name(record.run, RUN_FILE), encode_record(record))
            self._written, self._written_at = record, now


class RunSync:
    """Sends a run every few seconds from a thread of its own, and a last time when it is stopped.

    A failing store never reaches the training: it is told once, tried again each time, and told at the end.

    Args:
        sender: What sends.
        record: Returns the record as it is now.
        seconds: How long to wait between two sendings.
    """

    def __init__(self, sender: RunSender, record: Callable[[], RunRecord], *, seconds: float) -> None:
        self._sender = sender
        self._record = record
        self._seconds = seconds
        self._failing = False
        self._ended = threading.Event()
        # A daemon: a script that ends by an error must not wait for a store that does not answer.
        self._thread = threading.Thread(target=self._run, name="benchkit-experiment", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """End the thread, send what is left, and return whether all is in the store."""
        self.cancel()
        return self._send(final=True)

    def cancel(self) -> None:
        """End the thread once it has sent what it is sending."""
        self._ended.set()
        self._thread.join(_ENDING_SECONDS)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._send(final=False)

    def _send(self, *, final: bool) -> bool:
        record = self._record()
        try:
            self._sender.send(record, final=final)
        except (BenchKitError, RuntimeError) as error:  # the latter: no thread begins while Python ends
            if final:
                _LOG.warning(
                    "run %s is whole on this machine, but not in the remote: %s; send it later with: "
                    "bench-kit experiment push %s",
                    record.run,
                    error,
                    record.run,
                )
            elif not self._failing:
                _LOG.warning(
                    "run %s cannot be sent to the remote: %s; training goes on, and it is tried again every "
                    "%g seconds",
                    record.run,
                    error,
                    self._seconds,
                )
            self._failing = True
            return False
        if self._failing and not final:
            _LOG.warning("run %s is sent to the remote again", record.run)
        self._failing = False
        return True


def stored_name(run: str, path: str) -> str:
    """Return the name of an object of a run."""
    return f"{EXPERIMENTS}{run}/{path}"


def read_stored(store: Store, run: str) -> RunRecord | None:
    """Return the record of a run in a store, or None where there is none.

    Raises:
        FormatError: It is none, or that of another run.
    """
    name = stored_name(run, RUN_FILE)
    try:
        info = store.stat(name)
        data = store.read(name, length=min(info.size, MAX_RECORD_BYTES + 1)) if info else None
    except ObjectNotFoundError:
        return None
    if data is None:
        return None
    record = decode_record(data, what=f"{name} in {store.url}")
    if record.run != run:
        raise FormatError(f"{name} in {store.url} is the record of another run, {record.run}")
    return record


def metrics_bytes(record: RunRecord) -> int:
    """Return how many bytes of metrics a store has by its record."""
    return sum(file.size for file in record.files if is_metrics_name(file.path))


def _look(file: Path) -> _Look:
    status = os.stat(file)
    return _Look(status.st_size, status.st_mtime_ns)


def _write_file(store: Store, name: str, file: Path, look: _Look) -> bool:
    """Store a file; return whether it still is what was looked at."""
    try:
        store.write(name, file)
        return _look(file) == look
    except FileNotFoundError:
        return False
    except StoreError:
        if file.exists():
            raise
        return False


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_file(file)
