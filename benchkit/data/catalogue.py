"""The catalogue: which datasets and versions a store holds, and how a version is published.

A manifest's object name carries its number and its digest, so no put overwrites another's. Where two
publishers took the same number, the smaller digest keeps it; whoever sees that publishes the other again
under the next number, and then removes it from the first.
"""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from dataclasses import dataclass

from benchkit.errors import NotFoundError, ObjectNotFoundError
from benchkit.format import layout
from benchkit.format.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)
from benchkit.store.base import Store

_LOOKS = 20
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version: `number` counts from 1, `modified` is when the store wrote it."""

    dataset: str
    number: int
    digest: str
    modified: float

    @property
    def label(self) -> str:
        """The version as people write it, `train@3`."""
        return f"{self.dataset}@{self.number}"

    @property
    def object_name(self) -> str:
        """The name of its manifest in the store."""
        return layout.version_name(self.dataset, self.number, self.digest)


def open_catalogue(store: Store, *, create: bool = False) -> None:
    """Check the store's format marker, and write it where `create` is set and there is none.

    Raises:
        FormatError: The marker is of a newer format, or not this project's.
    """
    if store.stat(layout.MARKER_NAME):
        layout.check_marker(store.read(layout.MARKER_NAME), url=store.url)
    elif create:
        store.write(layout.MARKER_NAME, layout.marker_bytes())


def list_datasets(store: Store) -> list[str]:
    """Return the names of the datasets that have a published version, in order of name."""
    names = {info.name.split("/")[1] for info in store.list(layout.DATASETS) if "/versions/" in info.name}
    return sorted(name for name in names if list_versions(store, name))


def list_versions(store: Store, dataset: str) -> list[Version]:
    """Return the published versions of a dataset, oldest first; none is an empty list."""
    versions = {version.number: version for version in reversed(_list_manifests(store, dataset))}
    return [versions[number] for number in sorted(versions)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """What `show-ds` shows of a version.

    Attributes:
        version: Which one.
        samples: Live samples.
        chunks: Chunks.
        stored_bytes: Their sizes as stored.
        shared_bytes: Those of the chunks that an earlier version of the dataset has too.
    """

    version: Version
    samples: int
    chunks: int
    stored_bytes: int
    shared_bytes: int


def list_summaries(store: Store) -> list[VersionSummary]:
    """Return a summary of every version in the store, by dataset and number."""
    summaries = []
    for dataset in list_datasets(store):
        earlier: set[str] = set()
        for version in list_versions(store, dataset):
            manifest = read_manifest(store, version)
            objects = dict(manifest.objects())
            shared = sum(size for name, size in objects.items() if name in earlier)
            summaries.append(
                VersionSummary(
                    version=version,
                    samples=manifest.samples,
                    chunks=len(objects),
                    stored_bytes=sum(objects.values()),
                    shared_bytes=shared,
                )
            )
            earlier |= objects.keys()
    return summaries


def find_version(
    store: Store, dataset: str, *, number: int | None = None, digest: str | None = None
) -> Version:
    """Return the version of that number or that digest; the newest when neither is given.

    Raises:
        NotFoundError: There is none; the message says which there are.
    """
    versions = list_versions(store, dataset)
    if not versions:
        known = ", ".join(list_datasets(store)) or "none"
        raise NotFoundError(
            f"no dataset {dataset!r} in {store.url} (it holds: {known}); "
            "put it there with: python manage.py migrate-data"
        )
    for version in reversed(versions):
        if number in (None, version.number) and digest in (None, version.digest):
            return version
    wanted = f"version {number}" if number is not None else f"version with the manifest {digest}"
    known = ", ".join(str(version.number) for version in versions)
    raise NotFoundError(f"{dataset!r} in {store.url} has no {wanted}; it has: {known}")


def parse_label(label: str) -> tuple[str, int | None]:
    """Return dataset and number of `NAME` or `NAME@NUMBER`.

    Raises:
        NotFoundError: What stands behind the `@` is no version number.
    """
    dataset, at, number = label.partition("@")
    layout.check_dataset_name(dataset)
    if not at:
        return dataset, None
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        raise NotFoundError(f"{number!r:.40} is no version number; write {dataset}@1, {dataset}@2, …")
    return dataset, int(number)


def read_manifest(store: Store, version: Version) -> Manifest:
    """Return the manifest of a version, its digest checked.

    Raises:
        ObjectNotFoundError: The version has been deleted.
        CorruptError: Its bytes are not what was written.
        FormatError: It is of a newer format.
    """
    data = store.read(version.object_name, length=_manifest_size(store, version))
    return decode_manifest(data, dataset=version.dataset, digest=version.digest)


def is_intact(store: Store, version: Version, manifest: Manifest) -> bool:
    """Return whether the version's object holds the very bytes of the manifest."""
    return store.read(version.object_name, length=_manifest_size(store, version)) == encode_manifest(manifest)


def _manifest_size(store: Store, version: Version) -> int | None:
    """Return the bytes to read: one more than a manifest may have is enough to refuse it."""
    info = store.stat(version.object_name)
    return min(info.size, MAX_MANIFEST_BYTES + 1) if info else None


def publish(store: Store, manifest: Manifest) -> tuple[Version, bool]:
    """Publish the manifest as the next version, unless the newest says the same; its chunks must be there.

    Returns:
        The version that holds the manifest, and whether it is new.
    """
    data = encode_manifest(manifest)
    digest = manifest_digest(data)
    versions = list_versions(store, manifest.dataset)
    if versions and versions[-1].digest == digest:
        if not is_intact(store, versions[-1], manifest):
            store.write(versions[-1].object_name, data)
        return versions[-1], False
    number = versions[-1].number + 1 if versions else 1
    store.write(layout.version_name(manifest.dataset, number, digest), data)
    for look in range(_LOOKS):
        while _move_loser(store, manifest.dataset):
            pass
        # Somebody may be moving it at this moment: a listing can miss the old name and not yet have the new.
        for version in reversed(list_versions(store, manifest.dataset)):
            if version.digest == digest:
                return version, True
        time.sleep(look * _PAUSE_SECONDS)
    raise NotFoundError(
        f"the new version of {manifest.dataset!r} vanished from {store.url}: publish it again"
    )


def _move_loser(store: Store, dataset: str) -> bool:
    """Move one manifest whose number belongs to a smaller digest to the next free one; False: there is none.

    Every publisher does this after its put, for others too: one that looked before the other's put came in
    does not know that it lost its number.
    """
    entries = _list_manifests(store, dataset)
    for winner, loser in itertools.pairwise(entries):
        if winner.number == loser.number:
            moved = any(entry.digest == loser.digest and entry.number > loser.number for entry in entries)
            if not moved:
                target = layout.version_name(dataset, entries[-1].number + 1, loser.digest)
                with suppress(ObjectNotFoundError):  # another publisher has just moved it
                    store.write(target, store.read(loser.object_name))
            store.delete(loser.object_name)
            return True
    return False


def _list_manifests(store: Store, dataset: str) -> list[Version]:
    """Return every manifest in the store by number and digest, those that lost their number included."""
    found = []
    for info in store.list(layout.versions_prefix(dataset)):
        parsed = layout.parse_version_name(dataset, info.name)
        if parsed:
            number, digest = parsed
            found.append(Version(dataset=dataset, number=number, digest=digest, modified=info.modified))
    return sorted(found, key=lambda version: (version.number, version.digest))
