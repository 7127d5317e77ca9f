"""The record of a bundle: which files it has, and what its maker says of it; canonical JSON.

    {"benchkit":"<kind>","created":<seconds since 1970>,"details":{…},"files":[{"bytes":…,"digest":"…",
    "path":"…"},…],"folder":"<folder>","format":1,"name":"<name>"}

Its own digest is part of its object name, so a flipped byte is noticed before anything is believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchkit.errors import CorruptError, FormatError, UsageError
from benchkit.format import canonical
from benchkit.format.digests import digest_bytes
from benchkit.format.fields import Fields
from benchkit.format.layout import is_object_name

RECORD_FORMAT = 1
MAX_RECORD_BYTES = 64 << 20

_FOLDER = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file of a bundle: its POSIX path in the folder, its size in bytes, and its BLAKE3 digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a bundle.

    Attributes:
        kind: What it is: `checkpoint`, `code`.
        name: The name of which it is a version.
        folder: The folder that its files have for themselves.
        created: When it was made, in seconds since 1970, by the maker's clock.
        files: Its files, by path.
        details: What its maker has to say of it: a JSON object.
    """

    kind: str
    name: str
    folder: str
    created: int
    files: tuple[BundleFile, ...]
    details: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


def is_folder_name(text: str) -> bool:
    """Return whether the text names a bundle's folder: `<YYYYMMDD-HHMMSS>-<8 hex digits>`."""
    return bool(_FOLDER.fullmatch(text))


def encode_record(record: Record) -> bytes:
    """Return the record's bytes; equal records make equal bytes.

    Raises:
        UsageError: They are more than are read.
    """
    data = canonical.encode(
        {
            "benchkit": record.kind,
            "format": RECORD_FORMAT,
            "name": record.name,
            "folder": record.folder,
            "created": record.created,
            "files": [
                {"path": file.path, "bytes": file.size, "digest": file.digest} for file in record.files
            ],
            "details": record.details,
        }
    )
    if len(data) > MAX_RECORD_BYTES:
        raise UsageError(
            f"the record of {record.kind} {record.name!r} would have over {MAX_RECORD_BYTES} bytes"
        )
    return data


def decode_record(data: bytes, *, digest: str, kind: str, name: str) -> Record:
    """Return the record that the bytes hold, every value checked.

    Raises:
        CorruptError: The bytes have another digest, or belong to something else.
        FormatError: A newer format, or unknown or malformed keys.
    """
    what = f"the record {digest[:12]}… of {kind} {name!r}"
    if digest_bytes(data) != digest:
        raise CorruptError(f"{what} is corrupt: its bytes have not the digest in its name")
    fields = Fields(canonical.decode(data, what=what, max_bytes=MAX_RECORD_BYTES), what)
    fields.only("benchkit", "format", "name", "folder", "created", "files", "details")
    if fields.count("format") != RECORD_FORMAT:
        raise FormatError(
            f"{what} has format {fields.count('format')}, not {RECORD_FORMAT}: upgrade benchkit"
        )
    if (fields.fields["benchkit"], fields.fields["name"]) != (kind, name):
        found = f"{fields.fields['benchkit']!s:.40} {fields.fields['name']!r:.110}"
        raise CorruptError(f"{what} belongs to something else: {found}")
    folder = fields.value("folder", str)
    files = tuple(_decode_file(file, what) for file in fields.value("files", list))
    paths = [file.path for file in files]
    if not is_folder_name(folder) or paths != sorted(set(paths)):
        raise FormatError(f"{what} has a malformed folder or list of files")
    return Record(
        kind=kind,
        name=name,
        folder=folder,
        created=fields.count("created"),
        files=files,
        details=fields.value("details", dict),
    )


def _decode_file(value: Any, what: str) -> BundleFile:
    fields = Fields(value, f"a file of {what}")
    fields.only("path", "bytes", "digest")
    path = fields.value("path", str)
    if not is_object_name(path):
        raise FormatError(f"{what} has the file {path!r:.80}, which is no path in a folder")
    return BundleFile(path=path, size=fields.count("bytes"), digest=fields.digest("digest"))
