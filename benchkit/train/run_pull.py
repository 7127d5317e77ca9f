"""Runs on request: `pull` fetches one whole or not at all, `push` sends what the remote lacks of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchkit.errors import CorruptError, NotFoundError, ObjectNotFoundError, StoreError, UsageError
from benchkit.format.digests import digest_bytes, new_hasher
from benchkit.store.base import Store
from benchkit.store.folders import fresh_folder
from benchkit.train.run_folder import RUN_FILE, is_metrics_name, is_written
from benchkit.train.run_record import PARTS, RunFile, RunRecord, encode_record
from benchkit.train.run_sync import RunSender, stored_name
from benchkit.train.runs import RunEntry

_READINGS = 2


def pull_run(entry: RunEntry, target: Path, *, on_progress: Callable[[int], None] | None = None) -> int:
    """Fetch a run from the store into a folder that is not there yet, and return its bytes.

    Every file is compared with the digest in the record.

    Args:
        entry: The run.
        target: The folder to make; an empty one is taken.
        on_progress: Called with the bytes of each file that has arrived.

    Raises:
        NotFoundError: The run is not in the store.
        UsageError: There is something at the folder.
        CorruptError: A file is not what the record says.
        StoreError: The store failed, or the disk is full.
    """
    store, record = entry.store, entry.stored
    if store is None or record is None:
        raise NotFoundError(f"run {entry.record.run} is not in the remote: it is in {entry.folder}")
    try:
        with fresh_folder(target) as fresh:
            return _gather(store, record, fresh, on_progress)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{target} cannot be written, and was not: {error.strerror}; make room") from error


def push_run(entry: RunEntry, store: Store) -> int:
    """Send what the store lacks of a run on this machine, and return how many files went.

    Raises:
        NotFoundError: The run is not on this machine.
        UsageError: A process writes it, which sends it too; or the store has more of it.
    """
    if entry.folder is None:
        raise NotFoundError(
            f"run {entry.record.run} is in the remote, and not on this machine: nothing to send"
        )
    if is_written(entry.folder):
        raise UsageError(f"run {entry.record.run} is being written: its process sends it")
    record = replace(entry.record, files=(), state=entry.state)
    return RunSender(entry.folder, lambda: store).send(record, final=True)


def _gather(store: Store, record: RunRecord, part: Path, on_progress: Callable[[int], None] | None) -> int:
    """Fetch the files of a run into a folder, and return their bytes."""
    for name in PARTS:
        (part / name).mkdir()
    for file in record.files:
        path = part / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        name = stored_name(record.run, file.path)
        if not any(_fetch(store, name, file, path) for _ in range(_READINGS)):
            raise CorruptError(
                f"{name} in {store.url} is missing or corrupt, fetched {_READINGS} times: nothing was kept; "
                "if the run is still being sent, pull it again"
            )
        if on_progress:
            on_progress(file.size)
    data = encode_record(record)
    (part / RUN_FILE).write_bytes(data)
    return len(data) + sum(file.size for file in record.files)


def _fetch(store: Store, name: str, file: RunFile, path: Path) -> bool:
    """Write a file as it is in the store; return whether it is what the record says."""
    try:
        if is_metrics_name(file.path):  # which may have grown since
            info = store.stat(name)
            if info is None or info.size < file.size:
                return False
            data = store.read(name, length=file.size)
            path.write_bytes(data)
            return digest_bytes(data) == file.digest
        hasher, size = new_hasher(), 0
        with open(path, "wb") as target:
            for block in store.stream(name):
                size += len(block)
                if size > file.size:
                    return False  # it may be endless
                hasher.update(block)
                target.write(block)
    except ObjectNotFoundError:
        return False
    return size == file.size and hasher.hexdigest() == file.digest
