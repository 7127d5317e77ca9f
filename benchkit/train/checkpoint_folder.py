"""Local copies of checkpoints: folders that are whole once a marker stands beside them.

Below the checkpoint folder, each name has a folder of its own, and each of its checkpoints there

    <id>/         the files, as Accelerate writes and loads them
    <id>.json     the marker, written last: the record, and every file's size and BLAKE3 digest
    <id>.lock     held under a `flock` by whoever writes, uploads or reads the files

What has no marker is not whole and is never read. A copy is removed once it is in the store and a newer one
is whole; what is whole and not in the store stays.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import CorruptError, FormatError, StoreError
from benchkit.format import canonical
from benchkit.format.digests import digest_file
from benchkit.store.local import LocalStore
from benchkit.store.locks import LockedFile, open_locked
from benchkit.train.checkpoint_record import Checkpoint, read_details

CHECKPOINT_FOLDER = "checkpoint"

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_MAX_MARKER_BYTES = 64 << 20

Files = dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class LocalCopies:
    """The local copies of the checkpoints of one name.

    Attributes:
        root: Their folder.
        name: The name.
    """

    root: Path
    name: str

    def folder(self, checkpoint_id: str) -> Path:
        """Return the folder of a checkpoint's files."""
        return self.root / checkpoint_id

    def hold(self, checkpoint_id: str) -> LockedFile:
        """Hold a copy together with others, so that nobody removes it."""
        return self._lock(checkpoint_id, shared=True)

    def hold_alone(self, checkpoint_id: str) -> LockedFile:
        """Hold a copy that nobody else holds, and wait until then."""
        return self._lock(checkpoint_id, shared=False)

    def make_folder(self, checkpoint_id: str) -> None:
        """Make the folder for a checkpoint's files.

        Raises:
            StoreError: It cannot be made.
        """
        folder = self.folder(checkpoint_id)
        try:
            folder.mkdir()
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made: {error.strerror}; make room, or mend the folder"
            ) from error

    def paths(self, checkpoint_id: str) -> list[str]:
        """Return the POSIX paths of a checkpoint's files, in order."""
        return _list_paths(self.folder(checkpoint_id))

    def drop(self, checkpoint_id: str, paths: Iterable[str]) -> None:
        """Remove some of a checkpoint's files, where they are."""
        for path in paths:
            (self.folder(checkpoint_id) / path).unlink(missing_ok=True)

    def complete(self, checkpoint: Checkpoint) -> None:
        """Write the marker, from the files as they are now."""
        self._write_marker(checkpoint, _digest_files(self.folder(checkpoint.id)))

    def set_number(self, checkpoint: Checkpoint, number: int) -> None:
        """Note the number under which a copy is in the store."""
        marker = self._read_marker(checkpoint.id)
        if marker:
            self._write_marker(marker[0].numbered(number), marker[1])

    def find(self, checkpoint_id: str) -> Checkpoint | None:
        """Return the checkpoint if there is a copy with a marker."""
        marker = self._read_marker(checkpoint_id)
        return marker[0] if marker else None

    def find_all(self) -> list[Checkpoint]:
        """Return the copies that have a marker, oldest first."""
        found = (self.find(name.removesuffix(".json")) for name in self._names() if name.endswith(".json"))
        return sorted((checkpoint for checkpoint in found if checkpoint), key=lambda it: (it.created, it.id))

    def check(self, checkpoint_id: str) -> None:
        """Compare every byte of a copy with its marker.

        Raises:
            CorruptError: A file is missing, too many, or not what was written.
        """
        folder = self.folder(checkpoint_id)
        marker = self._read_marker(checkpoint_id)
        expected, found = marker[1] if marker else {}, _digest_files(folder)
        wrong = sorted(
            path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
        )
        if wrong or not marker:
            raise CorruptError(
                f"the local copy {folder} is not what was written: {', '.join(wrong[:3]) or 'no marker'}; "
                "remove the folder to load from the store"
            )

    def tidy(self) -> None:
        """Remove what nobody holds or needs: parts, and copies of what the store has, but the newest."""
        for name in self._names():
            checkpoint_id = name.removesuffix(".lock")
            if name.endswith(".lock") and _ID.fullmatch(checkpoint_id):
                with suppress(BlockingIOError), self._lock(checkpoint_id, shared=False, blocking=False):
                    # Asked only now: one that was being saved a moment ago may be whole.
                    if not self._is_needed(checkpoint_id):
                        self.clear(checkpoint_id)
                        (self.root / name).unlink()
        LocalStore(self.root).sweep()

    def _is_needed(self, checkpoint_id: str) -> bool:
        whole = self.find_all()
        return any(
            checkpoint.id == checkpoint_id
            and (checkpoint is whole[-1] or (not checkpoint.number and checkpoint.places == 1))
            for checkpoint in whole
        )

    def clear(self, checkpoint_id: str) -> None:
        """Remove the files of a copy that is held, its marker first."""
        with suppress(FileNotFoundError):
            (self.root / f"{checkpoint_id}.json").unlink()
        shutil.rmtree(self.folder(checkpoint_id), ignore_errors=True)

    def _lock(self, checkpoint_id: str, *, shared: bool, blocking: bool = True) -> LockedFile:
        path = self.root / f"{checkpoint_id}.lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            held = open_locked(path, shared=shared, create=True, blocking=blocking)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be made: {error.strerror}; make room, or mend the folder"
            ) from error
        if held is None:
            raise BlockingIOError(f"{path} is held")
        return held

    def _names(self) -> list[str]:
        return sorted(os.listdir(self.root)) if self.root.is_dir() else []

    def _write_marker(self, checkpoint: Checkpoint, files: Files) -> None:
        marker = {"checkpoint": checkpoint.to_details(), "number": checkpoint.number, "files": files}
        LocalStore(self.root).write(f"{checkpoint.id}.json", canonical.encode(marker))

    def _read_marker(self, checkpoint_id: str) -> tuple[Checkpoint, Files] | None:
        """Return what a marker says; one that cannot be read marks nothing."""
        if not _ID.fullmatch(checkpoint_id):
            return None
        path = self.root / f"{checkpoint_id}.json"
        with suppress(OSError, FormatError, KeyError, TypeError, ValueError, AttributeError):
            marker = canonical.decode(path.read_bytes(), what=path, max_bytes=_MAX_MARKER_BYTES)
            checkpoint = read_details(marker["checkpoint"], name=self.name, number=marker["number"])
            if checkpoint.id == checkpoint_id:
                return checkpoint, {
                    name: (int(size), str(digest)) for name, (size, digest) in marker["files"].items()
                }
        return None


def _list_paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest_files(folder: Path) -> Files:
    """Return size and digest of every file below a folder, by its path in it."""
    files: Files = {}
    try:
        for name in _list_paths(folder):
            with (folder / name).open("rb") as file:
                digest = digest_file(file)
                files[name] = file.tell(), digest
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error}") from error
    return files
