"""The sample data of a new project: one small zip beside its datasets, unpacked on first need.

A zip is untrusted bytes: every entry has to lie in the one folder it is unpacked to, and the number of
entries and their sizes are bounded before a byte is written. The folder appears whole or not at all.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from benchkit.errors import CorruptError, ProjectError
from benchkit.store.folders import scratch_folder

SAMPLES_ARCHIVE = "Datasets/digits.zip"
MAX_ENTRIES = 10_000
MAX_ENTRY_BYTES = 1 << 20
MAX_TOTAL_BYTES = 64 << 20


def unpack_samples(project: Path) -> bool:
    """Unpack the project's `Datasets/digits.zip` to `Datasets/digits/`; no zip, or done already, is no error.

    Args:
        project: The project folder.

    Returns:
        Whether something was unpacked.

    Raises:
        CorruptError: The zip is broken, or is not what a sample archive may be.
        ProjectError: The folder cannot be written.
    """
    archive = project / SAMPLES_ARCHIVE
    folder = archive.with_suffix("")
    if folder.exists() or not archive.exists():
        return False
    try:
        unpack(archive, folder)
    except OSError as error:
        raise ProjectError(f"cannot unpack {archive}: {error}") from error
    return True


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip whose entries all lie under the folder's own name, by way of a temporary sibling.

    Raises:
        CorruptError: An entry that is broken, too large, too many, no plain file, or outside the folder.
        OSError: The disk refuses.
    """
    with scratch_folder(folder.parent, f".{folder.name}-") as scratch:
        try:
            with zipfile.ZipFile(archive) as source:
                entries = check_entries(source.infolist(), archive=archive, top=folder.name)
                for path, entry in entries.items():
                    target = scratch / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(_read_entry(source, entry))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise CorruptError(f"{archive} cannot be unpacked: {error}; get the file again") from error
        (scratch / folder.name).rename(folder)


def check_entries(
    entries: list[zipfile.ZipInfo], *, archive: Path, top: str
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Return the files of a zip by their paths, or refuse the whole.

    Args:
        entries: The zip's directory.
        archive: The zip, for the message.
        top: The one folder that all entries have to lie in.
    """
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for entry in entries:
        path = PurePosixPath(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir():
            continue
        if "\\" in entry.filename or ".." in path.parts or len(path.parts) < 2 or path.parts[0] != top:
            reason = f"is outside the folder {top}/"
        elif not entry.filename.isprintable():
            reason = "has unprintable characters in its name"
        elif kind not in (0, stat.S_IFREG):
            reason = "is no plain file"
        elif entry.file_size > MAX_ENTRY_BYTES:
            reason = f"has {entry.file_size} bytes, more than {MAX_ENTRY_BYTES}"
        elif path in files:
            reason = "is there twice"
        else:
            files[path] = entry
            continue
        raise CorruptError(f"{archive} is refused: its entry {entry.filename!r} {reason}")
    total = sum(entry.file_size for entry in files.values())
    if not files or len(files) > MAX_ENTRIES or total > MAX_TOTAL_BYTES:
        raise CorruptError(
            f"{archive} is refused: {len(files)} files of {total} bytes, where 1 to {MAX_ENTRIES} files "
            f"of at most {MAX_TOTAL_BYTES} bytes are expected"
        )
    return files


def _read_entry(source: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with source.open(entry) as stream:
        data = stream.read()
    if len(data) != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename!r} does not have the {entry.file_size} bytes it declares")
    return data
