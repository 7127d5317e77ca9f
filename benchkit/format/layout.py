"""Where things stand in a store: the names of its objects."""

from __future__ import annotations

import re

from benchkit.errors import FormatError, UsageError
from benchkit.format import canonical
from benchkit.format.digests import DIGEST_CHARACTERS

MARKER_NAME = "benchkit.json"
STORE_FORMAT = 1
DATASETS = "datasets/"
CHECKPOINTS = "checkpoints/"
CODE = "code/"
EXPERIMENTS = "experiments/"

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_NUMBER = 10**9 - 1
_NUMBERED_NAME = re.compile(rf"([1-9][0-9]{{0,8}})-([0-9a-f]{{{DIGEST_CHARACTERS}}})\.json")


def is_object_name(name: str) -> bool:
    """Return whether the text can name an object: printable components joined by single slashes.

    No component is empty, `.` or `..`, and none has a backslash, so that no name leaves its store.
    """
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)


def is_dataset_name(name: str) -> bool:
    """Return whether the text can name a dataset, a checkpoint, or what else is named so."""
    return _DATASET_NAME.fullmatch(name) is not None


def check_dataset_name(name: str, *, what: str = "dataset") -> str:
    """Return the name of a dataset, or of what else is named so, if it is one; else raise `UsageError`."""
    if not isinstance(name, str) or not is_dataset_name(name):
        raise UsageError(
            f"{name!r} is no {what} name: 1 to 100 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        )
    return name


def dataset_prefix(dataset: str) -> str:
    """Return the prefix of all objects of a dataset."""
    return f"{DATASETS}{check_dataset_name(dataset)}/"


def chunk_name(dataset: str, stored: str, codec: str) -> str:
    """Return the object name of a chunk: its stored digest, and `.tar` or `.tar.zst`."""
    return f"{dataset_prefix(dataset)}chunks/{stored}.tar{'.zst' if codec == 'zstd' else ''}"


def chunks_prefix(dataset: str) -> str:
    """Return the prefix of a dataset's chunks."""
    return f"{dataset_prefix(dataset)}chunks/"


def is_chunk_name(name: str) -> bool:
    """Return whether an object is a chunk of some dataset by its name."""
    parts = name.split("/")
    return len(parts) == 4 and f"{parts[0]}/" == DATASETS and parts[2] == "chunks"


def versions_prefix(dataset: str) -> str:
    """Return the prefix of a dataset's manifests."""
    return f"{dataset_prefix(dataset)}versions/"


def version_name(dataset: str, number: int, digest: str) -> str:
    """Return the object name of a manifest: `versions/<number>-<digest>.json`."""
    return numbered_name(versions_prefix(dataset), number, digest)


def parse_version_name(dataset: str, name: str) -> tuple[int, str] | None:
    """Return the number and digest that a manifest's object name carries, or None for another object."""
    return parse_numbered_name(versions_prefix(dataset), name)


def numbered_name(prefix: str, number: int, digest: str) -> str:
    """Return the object name of a numbered object: `<prefix><number>-<digest>.json`."""
    return f"{prefix}{number}-{digest}.json"


def parse_numbered_name(prefix: str, name: str) -> tuple[int, str] | None:
    """Return the number and digest that a numbered object's name carries, or None for another object."""
    match = _NUMBERED_NAME.fullmatch(name[len(prefix) :]) if name.startswith(prefix) else None
    return (int(match[1]), match[2]) if match else None


def uploads_prefix(dataset: str) -> str:
    """Return the prefix of the intents of running uploads."""
    return f"{dataset_prefix(dataset)}uploads/"


def upload_name(dataset: str, upload_id: str) -> str:
    """Return the object name of an upload's intent."""
    return f"{uploads_prefix(dataset)}{upload_id}.json"


def marker_bytes() -> bytes:
    """Return the contents of a store's format marker."""
    return canonical.encode({"benchkit": "store", "format": STORE_FORMAT})


def check_marker(data: bytes, *, url: str) -> None:
    """Raise `FormatError` unless the bytes are a format marker that this version can work with."""
    try:
        marker = canonical.decode(data, what="it", max_bytes=4096)
    except FormatError as error:
        raise FormatError(
            f"{MARKER_NAME} of {url} is damaged ({error}): remove it, and migrate any dataset to write it "
            "again"
        ) from error
    if (
        not isinstance(marker, dict)
        or marker.get("benchkit") != "store"
        or type(marker.get("format")) is not int
    ):
        raise FormatError(
            f"{url} holds a {MARKER_NAME} that is not this project's; choose another folder or prefix"
        )
    if marker["format"] != STORE_FORMAT or len(marker) != 2:
        raise FormatError(
            f"{url} has store format {marker['format']}, this benchkit reads {STORE_FORMAT}: upgrade benchkit"
        )
