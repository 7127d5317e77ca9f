"""Removal: versions of a dataset, and the chunks that nothing else counts on.

Manifests go first, so that no version is seen without its chunks. A chunk stays while any other manifest, or
an upload that runs, names it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from benchkit.data.catalogue import Version, find_version, read_manifest
from benchkit.data.intents import list_intents
from benchkit.data.named import NamedChunks, chunk_objects
from benchkit.errors import CorruptError, FormatError
from benchkit.format import layout
from benchkit.store.base import Store


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
    named = NamedChunks(store, dataset).look(without=manifests)
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
    # The manifests do not count as they are gone; one that has come back, by an upload since, does.
    NamedChunks(store, removal.dataset).remove_others(removal.chunks)


def _readable_chunks(store: Store, version: Version) -> set[str]:
    """Return the chunks of a version that is to go; none where its manifest cannot be read."""
    try:
        return chunk_objects(read_manifest(store, version))
    except (CorruptError, FormatError):
        return set()
