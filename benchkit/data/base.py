"""The base: the version that packing builds on, so that what has not changed is neither read nor written.

It is the newest version of the remote store, for an upload is compared with that; staged versions that were
never uploaded are drafts. Where the remote has none it is the newest of staging.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from benchkit.data.catalogue import Version, list_versions, open_catalogue, read_manifest
from benchkit.errors import CorruptError, ObjectNotFoundError
from benchkit.format.chunk import Codec
from benchkit.format.manifest import Manifest, encode_manifest, manifest_digest
from benchkit.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A version to build on, and its manifest."""

    version: Version
    manifest: Manifest


def find_base(
    staging: Store, remote: Store | None, dataset: str, *, chunk_bytes: int, codec: Codec
) -> Base | None:
    """Return the version to build on, or None where there is none that was packed with these options.

    A version whose manifest is damaged is passed over: building on the one before it writes it again.

    Raises:
        FormatError: The version is of a newer format.
        StoreError: The remote cannot be asked.
    """
    for store in (remote, staging):
        base = _find_newest(store, dataset) if store else None
        if base:
            options = (base.manifest.chunk_bytes, base.manifest.codec)
            return base if options == (chunk_bytes, codec) else None
    return None


def adopt_base(staging: Store, base: Base) -> None:
    """Have staging show a base of the remote under the remote's number, where that number is free and higher.

    The chunks need not be in staging: those that are not are read from the remote.
    """
    versions = list_versions(staging, base.version.dataset)
    data = encode_manifest(base.manifest)
    newer = not versions or versions[-1].number < base.version.number
    there = versions and versions[-1].digest == base.version.digest
    if newer and not there and manifest_digest(data) == base.version.digest:
        staging.write(base.version.object_name, data)


def _find_newest(store: Store, dataset: str) -> Base | None:
    """Return the newest version whose manifest can be read."""
    open_catalogue(store)
    for version in reversed(list_versions(store, dataset)):
        with suppress(CorruptError, ObjectNotFoundError):
            return Base(version=version, manifest=read_manifest(store, version))
    return None
