"""Named chunks: those that a manifest or a running upload counts on; no other is ever removed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from benchkit.data.catalogue import Version, read_manifest
from benchkit.data.intents import YOUNG_SECONDS, intended_chunks
from benchkit.errors import CorruptError, FormatError, ObjectNotFoundError, StoreError
from benchkit.format import layout
from benchkit.format.manifest import Manifest
from benchkit.store.base import Store

_BATCH_CHUNKS = 64
"""After so many chunks it is looked again which ones are counted on."""


class NamedChunks:
    """The chunks of a dataset that something counts on, looked up anew each time.

    A manifest is read once, for it never changes.

    Args:
        store: Where the dataset is.
        dataset: Its name.
        young_seconds: For how long an intent counts.
    """

    def __init__(self, store: Store, dataset: str, *, young_seconds: float = YOUNG_SECONDS) -> None:
        self._store = store
        self._dataset = dataset
        self._young_seconds = young_seconds
        self._manifests: dict[str, set[str]] = {}

    def look(self, *, without: Collection[str] = ()) -> set[str]:
        """Return the object names of all chunks that are named now, by other manifests than these.

        Raises:
            FormatError, CorruptError: A manifest or a young intent cannot be read.
        """
        named = set(intended_chunks(self._store, self._dataset, young_seconds=self._young_seconds))
        for info in self._store.list(layout.versions_prefix(self._dataset)):
            parsed = layout.parse_version_name(self._dataset, info.name)
            if parsed and info.name not in without:
                if info.name not in self._manifests:
                    number, digest = parsed
                    version = Version(
                        dataset=self._dataset, number=number, digest=digest, modified=info.modified
                    )
                    with suppress(ObjectNotFoundError):  # removed since it was listed
                        self._manifests[info.name] = self._read(version)
                named |= self._manifests.get(info.name, set())
        return named

    def remove_others(self, chunks: Sequence[str]) -> None:
        """Remove those of the chunks, by object name, that nothing counts on.

        Raises:
            StoreError: The store failed; or an upload that began meanwhile has lost chunks.
        """
        gone: set[str] = set()
        for start in range(0, len(chunks), _BATCH_CHUNKS):
            named = self.look()
            for name in chunks[start : start + _BATCH_CHUNKS]:
                if name not in named:
                    self._store.delete(name)
                    gone.add(name)
        lost = gone & self.look() if gone else gone
        lost = {name for name in lost if self._store.stat(name) is None}
        if lost:
            raise StoreError(
                f"an upload of {self._dataset!r} to {self._store.url} began while chunks were removed, and "
                f"counts on {len(lost)} of them: upload it again with: "
                f"python manage.py migrate-data {self._dataset} --up"
            )

    def _read(self, version: Version) -> set[str]:
        try:
            return chunk_objects(read_manifest(self._store, version))
        except (CorruptError, FormatError) as error:
            raise type(error)(
                f"{error}; which chunks {version.label} needs is not known, so none can be removed: "
                f"remove that version first, or the whole dataset"
            ) from error


def chunk_objects(manifest: Manifest) -> set[str]:
    """Return the object names of a manifest's chunks."""
    return {name for name, _ in manifest.objects()}
