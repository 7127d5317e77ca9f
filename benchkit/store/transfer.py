"""Transfer: objects from one store to another, several at once, each verified before it is written."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import CorruptError, ObjectNotFoundError, StoreError
from benchkit.format.digests import digest_blocks, new_hasher
from benchkit.store.base import Store

Progress = Callable[[int], None]
_QUEUED_PER_WORKER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferItem:
    """One object to copy: name, size in bytes, and the BLAKE3 digest that its bytes must have."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What a transfer did: objects and bytes sent."""

    sent: int
    bytes_sent: int


def copy_objects(
    source: Store,
    target: Store,
    items: Iterable[TransferItem],
    *,
    workers: int = 8,
    on_progress: Progress | None = None,
) -> TransferReport:
    """Copy objects; what the target has under their names is replaced.

    An object travels through a temporary file, so memory does not grow with its size, and is written to the
    target only if it has the digest it should have. The first error stops the rest.

    Args:
        source: Where the objects are.
        target: Where they go.
        items: Which ones.
        workers: How many travel at once.
        on_progress: Called with the bytes of each object that has arrived.

    Raises:
        CorruptError: An object of the source is not what its name says.
        StoreError: One of the stores failed.
    """
    sent = bytes_sent = 0
    stop = threading.Event()
    running: dict[Future[None], TransferItem] = {}

    def collect(done: Iterable[Future[None]]) -> None:
        nonlocal sent, bytes_sent
        for future in done:
            item = running.pop(future)
            future.result()
            sent += 1
            bytes_sent += item.size
            if on_progress:
                on_progress(item.size)

    with ThreadPoolExecutor(workers, thread_name_prefix="benchkit-transfer") as pool:
        try:
            for item in items:
                if len(running) >= workers * _QUEUED_PER_WORKER:
                    collect(wait(running, return_when=FIRST_COMPLETED).done)
                running[pool.submit(_copy_object, source, target, item, stop)] = item
            while running:
                collect(wait(running, return_when=FIRST_COMPLETED).done)
        except BaseException:
            stop.set()
            raise
    return TransferReport(sent=sent, bytes_sent=bytes_sent)


def is_whole(store: Store, item: TransferItem) -> bool:
    """Return whether a store has an object with the digest it should have."""
    try:
        return digest_blocks(store.stream(item.name)) == item.digest
    except ObjectNotFoundError:
        return False


def _copy_object(source: Store, target: Store, item: TransferItem, stop: threading.Event) -> None:
    """Copy one object, unless the transfer has been stopped."""
    if stop.is_set():
        return
    try:
        with tempfile.TemporaryFile() as file:
            hasher, size = new_hasher(), 0
            for block in source.stream(item.name):
                if stop.is_set():
                    return
                hasher.update(block)
                size += len(block)
                if size > item.size:
                    break  # it is corrupt, and may be endless
                file.write(block)
            file.flush()
            file.seek(0)
            if size != item.size or hasher.hexdigest() != item.digest:
                got = f"{size} with {hasher.hexdigest()[:12]}…" if size <= item.size else "more"
                raise CorruptError(
                    f"{item.name} in {source.url} is corrupt and was not sent: expected {item.size} bytes "
                    f"with the digest {item.digest[:12]}…, got {got}"
                )
            # The file has no name of its own, so that a killed transfer leaves nothing behind.
            target.write(item.name, Path(f"/dev/fd/{file.fileno()}"))
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{item.name} was not sent: {error}; make room in {tempfile.gettempdir()}, or set TMPDIR to "
            "another folder"
        ) from error
