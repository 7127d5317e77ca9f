"""A fetch: a stored chunk becomes a verified plain tar; bytes that are not its own are fetched once more."""

from __future__ import annotations

from benchkit.data.catalogue import Version, list_versions
from benchkit.data.unpack import unpack_chunk
from benchkit.errors import CorruptError, NotFoundError, ObjectNotFoundError
from benchkit.format.layout import DATASETS
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import Store

ATTEMPTS = 2


def fetch_tar(
    store: Store, name: str, chunk: ChunkEntry, fd: int, *, what: str, version: Version | None = None
) -> None:
    """Write the chunk's plain tar to an open file, from offset 0 on, and verify it.

    Bytes that are not the chunk's are fetched once more; a second time they are an error, and what the file
    then holds is of no use.

    Args:
        store: Where the chunk is.
        name: The name of its object.
        chunk: What the manifest says of it.
        fd: A file opened for writing; at most `chunk.tar_bytes` bytes are written.
        what: The chunk in words, for messages: `chunk 3f9a….tar.zst of train@3`.
        version: The version that is read, to be looked for where the chunk is missing.

    Raises:
        NotFoundError: The chunk is missing, and the version too: it has been deleted.
        CorruptError: The object is missing, or twice did not hold the bytes that the manifest names.
        StoreError: The store failed.
        OSError: The file cannot be written.
    """
    fault = None
    for _ in range(ATTEMPTS):
        try:
            fault = unpack_chunk(store.stream(name), chunk, fd)
        except ObjectNotFoundError as error:
            if version:
                _check_version(store, version)
            raise CorruptError(f"{what} is missing from {store.url} ({name}): {_advice(name)}") from error
        if fault is None:
            return
    raise CorruptError(f"{what} is corrupt ({fault}): fetched {ATTEMPTS} times; {_advice(name)}")


def _check_version(store: Store, version: Version) -> None:
    """Raise `NotFoundError` if the store does not have the version any more."""
    versions = list_versions(store, version.dataset)
    if all(there.digest != version.digest for there in versions):
        newer = ", ".join(there.label for there in versions if there.number > version.number) or "none"
        raise NotFoundError(
            f"{version.label} was deleted from {store.url} while it was read; newer versions: {newer}; "
            f"start again with one that is there"
        )


def _advice(name: str) -> str:
    dataset = name.removeprefix(DATASETS).split("/")[0]
    return f'run "bench-kit verify {dataset} --full" (and --staged for staging)'
