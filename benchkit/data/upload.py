"""Upload: a version is copied from staging to the remote store, chunks first, manifest last.

An intent names the chunks that the upload counts on, the missing ones are sent, each verified by its digest,
the manifest is published, and it is looked once more whether all chunks are there. Cut off anywhere, it is
started again and sends what had not arrived; a reader sees the whole version or nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchkit.data.catalogue import (
    Version,
    find_version,
    is_intact,
    list_versions,
    open_catalogue,
    publish,
    read_manifest,
)
from benchkit.data.intents import REFRESH_SECONDS, encode_intent, new_intent_name
from benchkit.errors import CorruptError, ObjectNotFoundError, StoreError
from benchkit.format import layout
from benchkit.format.manifest import Manifest
from benchkit.store.base import Store
from benchkit.store.transfer import TransferItem, copy_objects, is_whole

_ROUNDS = 3
"""How often chunks are sent that somebody removed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress:
    """How far an upload has come: chunks and bytes that are in the remote store, and in all."""

    chunks: int
    total_chunks: int
    bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """What an upload did.

    Attributes:
        version: The version in the remote store.
        new: Whether it was not there before.
        chunks_sent: Chunks that were sent.
        chunks_skipped: Chunks that were there.
        bytes_sent: The sizes of those that were sent.
        seconds: How long it took.
    """

    version: Version
    new: bool
    chunks_sent: int
    chunks_skipped: int
    bytes_sent: int
    seconds: float


def upload(
    staging: Store,
    remote: Store,
    name: str,
    *,
    workers: int = 8,
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> UploadReport:
    """Publish the newest version of staging in the remote store, unless it is the newest there.

    Staging need not hold the chunks that the remote has. For each chunk that is sent one object is written;
    beside that it takes a few requests, however many chunks there are.

    Args:
        staging: Where the dataset was packed.
        remote: Where it goes.
        name: Name of the dataset.
        workers: How many chunks travel at once.
        on_progress: Is told how far it has come.

    Raises:
        NotFoundError: The dataset has not been packed.
        CorruptError: A chunk that the remote lacks is not in staging, or is not what its name says: such ones
            have been removed from staging, so that packing writes them again.
        StoreError: One of the stores failed.
    """
    started = time.monotonic()
    manifest = read_manifest(staging, staged := find_version(staging, name))
    open_catalogue(remote, create=True)
    sending = _Sending(staging, remote, manifest, workers, on_progress)
    versions = list_versions(remote, name)
    there = bool(versions) and versions[-1].digest == staged.digest and not sending.missing()
    if there and is_intact(remote, versions[-1], manifest):
        version, new = versions[-1], False
    else:
        version, new = sending.run()
    return UploadReport(
        version=version,
        new=new,
        chunks_sent=sending.sent,
        chunks_skipped=len(sending.items) - sending.sent,
        bytes_sent=sending.bytes_sent,
        seconds=time.monotonic() - started,
    )


class _Sending:
    """One upload on its way."""

    def __init__(
        self,
        staging: Store,
        remote: Store,
        manifest: Manifest,
        workers: int,
        on_progress: Callable[[UploadProgress], None] | None,
    ) -> None:
        self._staging = staging
        self._remote = remote
        self._manifest = manifest
        self._workers = workers
        self._on_progress = on_progress
        digests = {manifest.chunk_object(chunk): chunk.stored for chunk in manifest.chunks}
        self.items = [
            TransferItem(name=name, size=size, digest=digests[name]) for name, size in manifest.objects()
        ]
        self.sent = 0
        self.bytes_sent = 0

    def missing(self) -> list[TransferItem]:
        """Return the chunks that the remote store lacks now."""
        prefix = layout.chunks_prefix(self._manifest.dataset)
        present = {info.name: info.size for info in self._remote.list(prefix)}
        return [item for item in self.items if present.get(item.name) != item.size]

    def run(self) -> tuple[Version, bool]:
        """Return the version, all of whose chunks are in the remote store, and whether it is new.

        The intent is left where the upload fails: what has arrived is spared until it is started again.
        """
        dataset = self._manifest.dataset
        intent = _Intent(self._remote, dataset, [item.name for item in self.items])
        self._send(self.missing(), intent)
        version, new = publish(self._remote, self._manifest)
        for _ in range(_ROUNDS):
            missing = self.missing()
            if not missing:
                intent.withdraw()
                return version, new
            self._send(missing, intent)
        raise StoreError(
            f"chunks of {dataset!r} vanish from {self._remote.url} while they are sent: is it being cleaned? "
            "run the upload again when that is over"
        )

    def _send(self, missing: list[TransferItem], intent: _Intent) -> None:
        chunks = len(self.items) - len(missing)
        total_bytes = sum(item.size for item in self.items)
        done = total_bytes - sum(item.size for item in missing)

        def arrived(size: int) -> None:
            nonlocal chunks, done
            chunks, done = chunks + 1, done + size
            intent.refresh()
            if self._on_progress:
                self._on_progress(
                    UploadProgress(
                        chunks=chunks, total_chunks=len(self.items), bytes=done, total_bytes=total_bytes
                    )
                )

        try:
            report = copy_objects(
                self._staging, self._remote, missing, workers=self._workers, on_progress=arrived
            )
        except (CorruptError, ObjectNotFoundError) as error:
            damaged = self._remove_damaged(missing)
            if not damaged:
                raise
            raise CorruptError(
                f"{error}; staging now lacks {damaged} chunks, and {self._remote.url} does too (damaged ones "
                f"were removed): pack them again with: python manage.py migrate-data {self._manifest.dataset}"
            ) from error
        self.sent += report.sent
        self.bytes_sent += report.bytes_sent

    def _remove_damaged(self, items: list[TransferItem]) -> int:
        """Remove damaged chunks from staging, or else packing would take them for finished.

        Returns:
            How many staging lacks now.
        """
        lacking = [item for item in items if not is_whole(self._staging, item)]
        for item in lacking:
            self._staging.delete(item.name)
        return len(lacking)


class _Intent:
    """The intent of one upload in the remote store."""

    def __init__(self, remote: Store, dataset: str, chunks: list[str]) -> None:
        self._remote = remote
        self._name = new_intent_name(dataset)
        self._data = encode_intent(dataset, chunks)
        self._write()

    def refresh(self) -> None:
        """Write it again where it might come to look old."""
        if time.monotonic() - self._written > REFRESH_SECONDS:
            self._write()

    def withdraw(self) -> None:
        """Remove it: the manifest names the chunks now."""
        self._remote.delete(self._name)

    def _write(self) -> None:
        self._remote.write(self._name, self._data)
        self._written = time.monotonic()
