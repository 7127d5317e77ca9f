"""The catalogue: which datasets and versions a store holds; a version is a numbered manifest."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from benchkit.errors import CorruptError, FormatError, NotFoundError, ObjectNotFoundError, UsageError
from benchkit.format import layout
from benchkit.format.manifest import Manifest, decode_manifest, encode_manifest
from benchkit.store import numbered
from benchkit.store.base import Store
from benchkit.store.numbered import Numbered, list_numbered, publish_numbered, read_numbered


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
    marker = None
    with suppress(ObjectNotFoundError):
        marker = store.read(layout.MARKER_NAME)
    if marker is not None:
        layout.check_marker(marker, url=store.url)
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
    return [_version(dataset, item) for item in list_numbered(store, layout.versions_prefix(dataset))]


def list_superseded(store: Store, dataset: str) -> list[Version]:
    """Return the manifests that lost their number, and have been published again under another."""
    items = numbered.list_superseded(store, layout.versions_prefix(dataset))
    return [_version(dataset, item) for item in items]


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


def parse_label(label: str, *, what: str = "dataset") -> tuple[str, int | None]:
    """Return name and number of `NAME` or `NAME@NUMBER`, of a dataset or of what else is named so.

    Raises:
        UsageError: It is none: what stands behind the `@` is no version number, or there is no name.
    """
    dataset, at, number = label.partition("@")
    layout.check_dataset_name(dataset, what=what)
    if not at:
        return dataset, None
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
        raise UsageError(f"{number!r:.40} is no version number; write {dataset}@1, {dataset}@2, …")
    return dataset, int(number)


def read_manifest(store: Store, version: Version) -> Manifest:
    """Return the manifest of a version, its digest checked; wrong bytes are read once more.

    Raises:
        ObjectNotFoundError: The version has been deleted.
        CorruptError: Its bytes are not what was written.
        FormatError: It is of a newer format.
    """
    data = read_numbered(store, _numbered(version))
    return decode_manifest(data, dataset=version.dataset, digest=version.digest)


def is_intact(store: Store, version: Version, manifest: Manifest) -> bool:
    """Return whether the version's object holds the very bytes of the manifest."""
    return read_numbered(store, _numbered(version)) == encode_manifest(manifest)


def publish(store: Store, manifest: Manifest) -> tuple[Version, bool]:
    """Publish the manifest as the next version, unless the newest says the same; its chunks must be there.

    Killed at any moment it leaves the manifest unpublished, or published, or where another publisher of the
    same number keeps it: then it is seen when somebody publishes next.

    Returns:
        The version that holds the manifest, and whether it is new.
    """
    item, new = publish_numbered(store, layout.versions_prefix(manifest.dataset), encode_manifest(manifest))
    return _version(manifest.dataset, item), new


def _numbered(version: Version) -> Numbered:
    return Numbered(
        prefix=layout.versions_prefix(version.dataset),
        number=version.number,
        digest=version.digest,
        modified=version.modified,
    )


def _version(dataset: str, item: Numbered) -> Version:
    return Version(dataset=dataset, number=item.number, digest=item.digest, modified=item.modified)
