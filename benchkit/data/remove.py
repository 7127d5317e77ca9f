"""Removal: versions of a dataset, and the chunks that nothing else counts on.

Manifests go first, so that no version is seen without its chunks. A chunk stays while any other manifest, or
an upload that runs, names it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

from benchkit.data.catalogue import Version, find_version, read_manifest
from benchkit.data.intents import intended_chunks, list_intents
from benchkit.errors import CorruptError, FormatError, ObjectNotFoundError, StoreError
from benchkit.format import layout
from benchkit.format.manifest import Manifest
from benchkit.store.base import Store

_BATCH_CHUNKS = 64
"""After so many chunks it is looked again which ones are counted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is to be removed, by object name; nothing has been removed yet.

    Attributes:
        dataset: Name of the dataset.
        manifests: The versions' manifests.
        chunks: Chunks that only those versions need.
        intents: What dead uploads left; only when the whole dataset goes.
        freed_bytes: The sizes of all these together.
        kept_chunks: How many chunks of the versions stay, since something else counts on them.
    """

    dataset: str
    manifests: tuple[str, ...]
    chunks: tuple[str, ...]
    intents: tuple[str, ...]
    freed_bytes: int
    kept_chunks: int


def plan_removal(store: Store, dataset: str, number: int | None = None) -> Removal:
    """Return what removing a version would remove; None is the whole dataset.

    Raises:
        NotFoundError: There is no such dataset or version.
        FormatError, CorruptError: Another version or a running upload cannot be read, so that it is not
            known which chunks it needs.
    """
    version = find_version(store, dataset, number=number)
    manifests = {info.name: info.size for info in store.list(layout.versions_prefix(dataset))}
    present = {info.name: info.size for info in store.list(layout.chunks_prefix(dataset))}
    old: dict[str, int] = {}
    if number is None:
        candidates = present
        old = {info.name: info.size for info in list_intents(store, dataset)[1]}
    else:
        manifests = {version.object_name: manifests[version.object_name]}
        candidates = {name: present[name] for name in _readable_chunks(store, version) if name in present}
    named = _Named(store, dataset).chunks(without=manifests)
    chunks = {name: size for name, size in candidates.items() if name not in named}
    return Removal(
        dataset=dataset,
        manifests=tuple(manifests),
        chunks=tuple(chunks),
        intents=tuple(old),
        freed_bytes=sum(itertools.chain(manifests.values(), chunks.values(), old.values())),
        kept_chunks=len(candidates) - len(chunks),
    )


def remove(store: Store, removal: Removal) -> None:
    """Remove what was planned, except for chunks that something has come to count on since.

    Raises:
        StoreError: The store failed; or a version that was published meanwhile has lost chunks.
    """
    for name in (*removal.manifests, *removal.intents):
        store.delete(name)
    named = _Named(store, removal.dataset)
    gone: set[str] = set()
    for start in range(0, len(removal.chunks), _BATCH_CHUNKS):
        spared = named.chunks(without=removal.manifests)
        for name in removal.chunks[start : start + _BATCH_CHUNKS]:
            if name not in spared:
                store.delete(name)
                gone.add(name)
    lost = gone & named.chunks(without=removal.manifests) if gone else gone
    lost = {name for name in lost if store.stat(name) is None}
    if lost:
        raise StoreError(
            f"an upload of {removal.dataset!r} to {store.url} began while chunks were removed, and counts on "
            f"{len(lost)} of them: upload it again with: python manage.py migrate-data {removal.dataset} --up"
        )


class _Named:
    """The chunks that manifests and running uploads name; a manifest is read once, for it never changes."""

    def __init__(self, store: Store, dataset: str) -> None:
        self._store = store
        self._dataset = dataset
        self._manifests: dict[str, set[str]] = {}

    def chunks(self, *, without: Collection[str]) -> set[str]:
        """Return the object names of all chunks that are named now, by other manifests than these."""
        named = set(intended_chunks(self._store, self._dataset))
        for info in self._store.list(layout.versions_prefix(self._dataset)):
            parsed = layout.parse_version_name(self._dataset, info.name)
            if parsed and info.name not in without:
                if info.name not in self._manifests:
                    number, digest = parsed
                    version = Version(
                        dataset=self._dataset, number=number, digest=digest, modified=info.modified
                    )
                    self._manifests[info.name] = self._read(version)
                named |= self._manifests[info.name]
        return named

    def _read(self, version: Version) -> set[str]:
        try:
            return _chunk_objects(read_manifest(self._store, version))
        except ObjectNotFoundError:
            return set()  # removed since it was listed
        except (CorruptError, FormatError) as error:
            raise type(error)(
                f"{error}; which chunks {version.label} needs is not known, so none can be removed: "
                f"remove that version first, or the whole dataset"
            ) from error


def _readable_chunks(store: Store, version: Version) -> set[str]:
    """Return the chunks of a version that is to go; none where its manifest cannot be read."""
    try:
        return _chunk_objects(read_manifest(store, version))
    except (CorruptError, FormatError):
        return set()


def _chunk_objects(manifest: Manifest) -> set[str]:
    return {name for name, _ in manifest.objects()}
