"""Checkpoints in a store: numbered versions of a name, each there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchkit.errors import CorruptError, NotFoundError, ObjectNotFoundError
from benchkit.format.layout import CHECKPOINTS, check_dataset_name, is_dataset_name
from benchkit.store.base import Store
from benchkit.store.bundles import Progress, Shelf, list_names
from benchkit.store.numbered import Numbered
from benchkit.train.checkpoint_folder import LocalCopies
from benchkit.train.checkpoint_record import Checkpoint, read_details


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint in a store: its record, its version there, and how many files of how many bytes it has."""

    checkpoint: Checkpoint
    bundle: Numbered
    files: int
    size: int


def open_shelf(store: Store, name: str) -> Shelf:
    """Return the shelf of a checkpoint's versions; nothing is asked of the store yet.

    Raises:
        UsageError: The name is none.
    """
    prefix = f"{CHECKPOINTS}{check_dataset_name(name, what='checkpoint')}/"
    return Shelf(store=store, prefix=prefix, kind="checkpoint", name=name, maker="upload_model_checkpoint")


def list_checkpoints(store: Store) -> list[str]:
    """Return the names of the checkpoints in a store, in order."""
    return list_names(store, CHECKPOINTS)


def list_shelves(store: Store) -> list[Shelf]:
    """Return the shelves of all names below which there is anything, also of uploads that were cut off."""
    names = {info.name.split("/")[1] for info in store.list(CHECKPOINTS)}
    return [open_shelf(store, name) for name in sorted(names) if is_dataset_name(name)]


def read_stored(shelf: Shelf, bundle: Numbered) -> StoredCheckpoint:
    """Return what is known of a version.

    Raises:
        ObjectNotFoundError: It has been deleted.
        CorruptError: Its record is not what was written.
        FormatError: It is of a newer format.
    """
    with _told(shelf, bundle):
        record = shelf.read(bundle)
    checkpoint = read_details(record.details, name=shelf.name, number=bundle.number)
    if checkpoint.id != record.folder:
        raise CorruptError(f"the record of checkpoint {checkpoint.label} speaks of another, {checkpoint.id}")
    return StoredCheckpoint(checkpoint=checkpoint, bundle=bundle, files=len(record.files), size=record.size)


def find_stored(shelf: Shelf, number: int | None = None) -> StoredCheckpoint:
    """Return the version of that number; None is the newest.

    Raises:
        NotFoundError: There is none; the message says which there are.
    """
    bundle = _find(shelf, number)
    try:
        return read_stored(shelf, bundle)
    except ObjectNotFoundError as error:
        raise NotFoundError(f"checkpoint {shelf.name}@{bundle.number} has been deleted just now") from error


def fetch_copy(
    shelf: Shelf, stored: StoredCheckpoint, copies: LocalCopies, *, on_progress: Progress | None = None
) -> bool:
    """Make a local copy of a version, unless there is a whole one; return whether it was fetched.

    Raises:
        CorruptError: A file in the store is not what was written.
        StoreError: The store or the disk failed.
    """
    checkpoint = stored.checkpoint
    with copies.hold_alone(checkpoint.id):
        copy = copies.find(checkpoint.id)
        if copy and copy.places == 1:
            try:
                copies.check(checkpoint.id)
            except CorruptError:
                copies.clear(checkpoint.id)
            else:
                return False
        copies.clear(checkpoint.id)
        fetch_files(shelf, stored, copies.folder(checkpoint.id), on_progress=on_progress)
        copies.complete(replace(checkpoint, places=1))
    return True


def fetch_files(
    shelf: Shelf, stored: StoredCheckpoint, folder: Path, *, on_progress: Progress | None = None
) -> None:
    """Fetch a version's files into a folder that is not there yet: whole or not at all.

    Raises:
        UsageError: There is something at the folder.
        CorruptError: A file in the store is not what was written.
        StoreError: The store or the disk failed.
    """
    with _told(shelf, stored.bundle):
        shelf.fetch(stored.bundle, folder, on_progress=on_progress)


def retain(shelf: Shelf, keep: int) -> None:
    """Remove all but the newest versions, so many of which stay."""
    for bundle in shelf.versions()[:-keep]:
        shelf.remove(bundle)


def pick_versions(shelf: Shelf, number: int | None) -> list[Numbered]:
    """Return the version of that number, or all where it is None; readable or not.

    Raises:
        NotFoundError: There is none.
    """
    return [_find(shelf, number)] if number or not shelf.versions() else shelf.versions()


def _find(shelf: Shelf, number: int | None) -> Numbered:
    try:
        return shelf.find(number)
    except NotFoundError as error:
        if shelf.versions():
            raise
        known = ", ".join(list_checkpoints(shelf.store)) or "none"
        raise NotFoundError(f"{error}; it holds: {known}; upload_model_checkpoint puts one there") from error


@contextmanager
def _told(shelf: Shelf, bundle: Numbered) -> Iterator[None]:
    """Name the version in the error of one whose bytes are wrong, and what to do."""
    try:
        yield
    except CorruptError as error:
        label = f"{shelf.name}@{bundle.number}"
        raise CorruptError(f"checkpoint {label}: {error}; bench-kit del-check {label} deletes it") from error
