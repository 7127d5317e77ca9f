"""The catalogue: which datasets and versions a store holds, and how a version is published.

A manifest's object name carries its number and its digest, so no put overwrites another's. Where two
publishers took the same number, the first by the store's clock keeps it; of those of one time, the smaller
digest. Whoever publishes moves the others to the next number, and until then readers do not see them.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from benchkit.errors import CorruptError, FormatError, NotFoundError, ObjectNotFoundError, UsageError
from benchkit.format import layout
from benchkit.format.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)
from benchkit.store.base import Store

_READINGS = 2
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


def dataset_of(name: str) -> str | None:
    """Return the dataset that an object belongs to by its name, or None where it belongs to none."""
    parts = name.removeprefix(layout.DATASETS).split("/")
    if len(parts) < 2 or not name.startswith(layout.DATASETS):
        return None
    try:
        return layout.check_dataset_name(parts[0])
    except UsageError:
        return None


def list_datasets(store: Store) -> list[str]:
    """Return the names of the datasets that have a published version, in order of name."""
    found = set()
    for info in store.list(layout.DATASETS):
        dataset = dataset_of(info.name)
        if dataset and layout.parse_version_name(dataset, info.name):
            found.add(dataset)
    return sorted(found)


def list_versions(store: Store, dataset: str) -> list[Version]:
    """Return the published versions of a dataset, oldest first; none is an empty list."""
    return _part(_list_manifests(store, dataset))[0]


def list_superseded(store: Store, dataset: str) -> list[Version]:
    """Return the manifests that lost their number, and have been published again under another."""
    manifests = _list_manifests(store, dataset)
    return [loser for loser in _part(manifests)[1] if _is_moved(loser, manifests)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """What `show-ds` shows of a version.

    Attributes:
        version: Which one.
        samples: Live samples.
        chunks: Chunks.
        stored_bytes: Their sizes as stored.
        shared_bytes: Those of the chunks that an earlier version of the dataset has too.
        error: Why the manifest cannot be read, so that the numbers are 0; empty where it can.
    """

    version: Version
    samples: int = 0
    chunks: int = 0
    stored_bytes: int = 0
    shared_bytes: int = 0
    error: str = ""


def list_summaries(store: Store) -> list[VersionSummary]:
    """Return a summary of every version in the store, by dataset and number."""
    summaries = []
    for dataset in list_datasets(store):
        earlier: set[str] = set()
        for version in list_versions(store, dataset):
            try:
                manifest = read_manifest(store, version)
            except ObjectNotFoundError:
                continue  # it has just been deleted
            except (CorruptError, FormatError) as error:
                summaries.append(VersionSummary(version=version, error=str(error)))
                continue
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
    """Return the manifest of a version, its digest checked; wrong bytes are read once more.

    Raises:
        ObjectNotFoundError: The version has been deleted.
        CorruptError: Its bytes are not what was written.
        FormatError: It is of a newer format.
    """
    return decode_manifest(_read_bytes(store, version), dataset=version.dataset, digest=version.digest)


def is_intact(store: Store, version: Version, manifest: Manifest) -> bool:
    """Return whether the version's object holds the very bytes of the manifest."""
    return _read_bytes(store, version) == encode_manifest(manifest)


def _read_bytes(store: Store, version: Version) -> bytes:
    """Return the bytes of a manifest, read once more where a first reading has not its digest."""
    data = b""
    for _ in range(_READINGS):
        info = store.stat(version.object_name)
        # One byte more than a manifest may have is enough to refuse it.
        length = min(info.size, MAX_MANIFEST_BYTES + 1) if info else None
        data = store.read(version.object_name, length=length)
        if manifest_digest(data) == version.digest:
            break
    return data


def publish(store: Store, manifest: Manifest) -> tuple[Version, bool]:
    """Publish the manifest as the next version, unless the newest says the same; its chunks must be there.

    Killed at any moment it leaves the manifest unpublished, or published, or where another publisher of the
    same number keeps it: then it is seen when somebody publishes next.

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
        for version in reversed(_settle(store, manifest.dataset)):
            if version.digest == digest and version.number >= number:
                return version, True
        # Somebody may be moving it at this moment: a listing in several parts can miss the old name and not
        # yet have the new.
        time.sleep(look * _PAUSE_SECONDS)
    raise NotFoundError(
        f"the new version of {manifest.dataset!r} vanished from {store.url}: publish it again"
    )


def _settle(store: Store, dataset: str) -> list[Version]:
    """Move every manifest that lost its number to the next free one, and return the versions.

    Every publisher does this after its put, for others too: one that was killed cannot, and one that looked
    before the winner's put came in does not know that it lost.
    """
    while True:
        manifests = _list_manifests(store, dataset)
        versions, losers = _part(manifests)
        if not losers:
            return versions
        if not _is_moved(losers[0], manifests):
            target = layout.version_name(dataset, versions[-1].number + 1, losers[0].digest)
            with suppress(ObjectNotFoundError):  # another publisher has just moved it
                store.write(target, _read_bytes(store, losers[0]))
        store.delete(losers[0].object_name)


def _part(manifests: list[Version]) -> tuple[list[Version], list[Version]]:
    """Return the first manifest of every number, and those that lost theirs, both in order."""
    versions = {manifest.number: manifest for manifest in reversed(manifests)}
    return (
        [versions[number] for number in sorted(versions)],
        [manifest for manifest in manifests if manifest is not versions[manifest.number]],
    )


def _is_moved(loser: Version, manifests: list[Version]) -> bool:
    return any(other.digest == loser.digest and other.number > loser.number for other in manifests)


def _list_manifests(store: Store, dataset: str) -> list[Version]:
    """Return every manifest in the store by number; of one number, those first that have the better right."""
    found = []
    for info in store.list(layout.versions_prefix(dataset)):
        parsed = layout.parse_version_name(dataset, info.name)
        if parsed:
            number, digest = parsed
            found.append(Version(dataset=dataset, number=number, digest=digest, modified=info.modified))
    return sorted(found, key=lambda version: (version.number, version.modified, version.digest))
