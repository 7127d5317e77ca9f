"""A version of a project's code: its files, and what it was made with, as the record of its bundle says it.

The details of the record are `benchkit`, `python` and `torch` (versions), `git` (`revision` and `dirty`, or
nothing), `datasets` (what the project declares: name, newest version in the remote, manifest digest; null
where that could not be told) and `files` (path, bytes, digest, executable).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchkit.errors import CorruptError, FormatError
from benchkit.format.archive import ArchiveFile
from benchkit.format.fields import Fields
from benchkit.format.layout import is_object_name
from benchkit.format.record import BundleFile, Record
from benchkit.store.numbered import Numbered

KIND = "code"
ARCHIVE_NAME = "code.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedDataset:
    """A dataset that the code uses, and its newest version in the remote; None where it has none there."""

    name: str
    version: int | None
    manifest: str | None

    @property
    def label(self) -> str:
        """The version as people write it, `train@3`."""
        return f"{self.name}@{self.version}" if self.version else f"{self.name} (not uploaded)"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeWith:
    """What code was packed with.

    Attributes:
        benchkit: Version of this package.
        python: Version of Python.
        torch: Version of torch; None where it is not installed.
        revision: The git revision; None outside of a repository.
        dirty: Whether tracked files differed from it; None where that is not known.
        datasets: What it uses; None where that is not known.
    """

    benchkit: str
    python: str
    torch: str | None
    revision: str | None
    dirty: bool | None
    datasets: tuple[UsedDataset, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeVersion:
    """One version of a project's code.

    Attributes:
        bundle: Where its record is.
        record: The record.
        archive: The archive, a file of the bundle.
        made_with: What it was packed with.
        files: What the archive holds, by path.
    """

    bundle: Numbered
    record: Record
    archive: BundleFile
    made_with: MadeWith
    files: tuple[ArchiveFile, ...]

    @property
    def number(self) -> int:
        """Its number, from 1 on."""
        return self.bundle.number

    @property
    def size(self) -> int:
        """The bytes of its files together."""
        return sum(file.size for file in self.files)


def encode_details(made_with: MadeWith, files: tuple[ArchiveFile, ...]) -> dict[str, Any]:
    """Return the details of a version's record."""
    datasets = made_with.datasets
    return {
        "benchkit": made_with.benchkit,
        "python": made_with.python,
        "torch": made_with.torch,
        "git": {"revision": made_with.revision, "dirty": made_with.dirty},
        "datasets": None if datasets is None else [asdict(dataset) for dataset in datasets],
        "files": [
            {"path": file.path, "bytes": file.size, "digest": file.digest, "executable": file.executable}
            for file in files
        ],
    }


def decode_version(bundle: Numbered, record: Record) -> CodeVersion:
    """Return the version that a record describes, every value checked.

    Raises:
        FormatError: The record is of a newer format, or malformed.
    """
    what = f"the record of version {bundle.number} of the code {record.name!r}"
    if [file.path for file in record.files] != [ARCHIVE_NAME]:
        raise FormatError(f"{what} has other files than {ARCHIVE_NAME}: upgrade benchkit")
    fields = Fields(dict(record.details), what)
    fields.only("benchkit", "python", "torch", "git", "datasets", "files")
    git = Fields(fields.value("git", dict), f"'git' of {what}")
    git.only("revision", "dirty")
    datasets = fields.optional("datasets", list)
    made_with = MadeWith(
        benchkit=fields.value("benchkit", str),
        python=fields.value("python", str),
        torch=fields.optional("torch", str),
        revision=git.optional("revision", str),
        dirty=git.optional("dirty", bool),
        datasets=None if datasets is None else tuple(_decode_dataset(entry, what) for entry in datasets),
    )
    files = tuple(_decode_file(entry, what) for entry in fields.value("files", list))
    paths = [file.path for file in files]
    if paths != sorted(set(paths)):
        raise FormatError(f"{what} has a malformed list of files")
    if sum(file.size for file in files) > record.files[0].size:
        raise CorruptError(f"{what} is corrupt: its files are larger than the archive they are in")
    return CodeVersion(
        bundle=bundle, record=record, archive=record.files[0], made_with=made_with, files=files
    )


def _decode_dataset(value: Any, what: str) -> UsedDataset:
    fields = Fields(value, f"a dataset of {what}")
    fields.only("name", "version", "manifest")
    version = None if fields.fields["version"] is None else fields.count("version")
    manifest = None if fields.fields["manifest"] is None else fields.digest("manifest")
    return UsedDataset(name=fields.value("name", str), version=version, manifest=manifest)


def _decode_file(value: Any, what: str) -> ArchiveFile:
    fields = Fields(value, f"a file of {what}")
    fields.only("path", "bytes", "digest", "executable")
    path = fields.value("path", str)
    if not is_object_name(path):
        raise FormatError(f"{what} has the file {path!r:.80}, which is no path in a folder")
    return ArchiveFile(
        path=path,
        size=fields.count("bytes"),
        executable=fields.value("executable", bool),
        digest=fields.digest("digest"),
    )


Changes = Mapping[str, str]
"""Paths that differ, and how: `+` new, `~` changed, `-` gone."""


def compare_files(old: tuple[ArchiveFile, ...], new: tuple[ArchiveFile, ...]) -> Changes:
    """Return how files differ from others, by path, in order."""
    before = {file.path: file for file in old}
    after = {file.path: file for file in new}
    return {
        path: "+" if path not in before else "-" if path not in after else "~"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }
