"""Unpacking an archive of code: into a new folder as a whole, or beside the files of one that is there.

Nothing is written outside of the folder, whatever stands in it or in the archive, and no file that is there
is replaced unless that is asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import StoreError, UsageError
from benchkit.format.archive import Archive, ArchiveFile
from benchkit.format.digests import digest_file
from benchkit.store.folders import fresh_folder, scratch_folder

SCRATCH_FOLDER = ".benchkit"
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What came of unpacking.

    Attributes:
        written: Files that are new.
        replaced: Files that stood there with other contents.
        same: Files that stood there just so.
    """

    written: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


def unpack(archive: Archive, files: Sequence[ArchiveFile], folder: Path, *, force: bool = False) -> Unpacked:
    """Unpack files of an archive into a folder, which is made where there is none.

    Args:
        archive: The archive.
        files: What is wanted of it, with digests where these are to be checked.
        folder: Where it goes.
        force: Replace files that are there with other contents.

    Raises:
        UsageError: Something is in the way; nothing has been written.
        CorruptError: A file is not what was packed; nothing has been written.
        StoreError: The disk failed; every file stands as it was, or as it is to be.
    """
    with _translated(folder):
        if not folder.is_symlink() and (not folder.exists() or _is_empty(folder)):
            with fresh_folder(folder) as fresh:
                _write(archive, files, fresh)
            return Unpacked(written=tuple(file.path for file in files))
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder: choose another with --to")
        return _unpack_beside(archive, files, folder, force=force)


def _unpack_beside(archive: Archive, files: Sequence[ArchiveFile], folder: Path, *, force: bool) -> Unpacked:
    scratch = folder / SCRATCH_FOLDER
    made = not scratch.exists()
    if scratch.is_symlink():
        raise UsageError(f"{scratch} is a link, which is not followed: remove it")
    scratch.mkdir(exist_ok=True)
    try:
        with scratch_folder(scratch, "unpacking-") as draft:
            _write(archive, files, draft)
            standing = {file.path: _standing(folder, file, draft) for file in files}
            replaced = tuple(path for path, how in standing.items() if how == "other")
            if replaced and not force:
                more = f" and {len(replaced) - _NAMED} more" if len(replaced) > _NAMED else ""
                raise UsageError(
                    f"{', '.join(map(repr, replaced[:_NAMED]))}{more} in {folder} would be replaced: add "
                    "--force, or choose another folder with --to"
                )
            for path, how in standing.items():
                if how != "same":
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(draft / path, folder / path)
    finally:
        if made and _is_empty(scratch):
            scratch.rmdir()
    return Unpacked(
        written=tuple(path for path, how in standing.items() if how == "none"),
        replaced=replaced,
        same=tuple(path for path, how in standing.items() if how == "same"),
    )


def _standing(folder: Path, file: ArchiveFile, draft: Path) -> str:
    """Return what stands where a file goes: `none`, the `same`, or an `other` that can be replaced."""
    place = folder
    for part in file.path.split("/")[:-1]:
        place /= part
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise UsageError(f"{place} is in the way of the folder {part!r}, and no folder: move it away")
    place = folder / file.path
    try:
        status = os.lstat(place)
    except FileNotFoundError:
        return "none"
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{place} is in the way of a file, and a folder: move it away")
    same = (
        stat.S_ISREG(status.st_mode)
        and status.st_size == file.size
        and bool(status.st_mode & stat.S_IXUSR) == file.executable
        and _digest(place) == _digest(draft / file.path)
    )
    return "same" if same else "other"


def _write(archive: Archive, files: Sequence[ArchiveFile], folder: Path) -> None:
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The user's umask decides who else may read it, as for every file of theirs.
        mode = 0o777 if file.executable else 0o666
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as output:
            output.writelines(archive.read(file))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return digest_file(file)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error}") from error
