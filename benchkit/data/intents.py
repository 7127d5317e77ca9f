"""Intents: an upload's word on which chunks it counts, so that nobody removes them under it.

An intent is an object `datasets/<name>/uploads/<id>.json`, canonical JSON:

    {"benchkit":"upload","chunks":["<stored digest>.tar",…],"dataset":"<name>","format":1}

It is written before an upload looks which chunks are there, again every hour, and removed at its end. It
counts for a day after it was last written, by the store's own clock; an older one was left by a dead upload.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator

from benchkit.errors import FormatError, ObjectNotFoundError
from benchkit.format import canonical, layout
from benchkit.format.fields import Fields
from benchkit.format.manifest import MAX_MANIFEST_BYTES
from benchkit.store import clock
from benchkit.store.base import ObjectInfo, Store

INTENT_FORMAT = 1
YOUNG_SECONDS = 24 * 3600
REFRESH_SECONDS = 3600


def new_intent_name(dataset: str) -> str:
    """Return an object name for an intent that no other upload has."""
    return layout.upload_name(dataset, secrets.token_hex(16))


def encode_intent(dataset: str, chunks: Iterable[str]) -> bytes:
    """Return the intent that counts on these chunks, object names of the dataset."""
    prefix = layout.chunks_prefix(dataset)
    names = sorted(chunk.removeprefix(prefix) for chunk in chunks)
    return canonical.encode(
        {"benchkit": "upload", "format": INTENT_FORMAT, "dataset": dataset, "chunks": names}
    )


def decode_intent(data: bytes, *, dataset: str, what: str) -> set[str]:
    """Return the object names of the chunks that an intent counts on.

    Raises:
        FormatError: It is of a newer format, or none: what it counts on is not known.
    """
    fields = Fields(canonical.decode(data, what=what, max_bytes=MAX_MANIFEST_BYTES), what)
    fields.only("benchkit", "format", "dataset", "chunks")
    if fields.fields["benchkit"] != "upload" or fields.count("format") != INTENT_FORMAT:
        raise FormatError(f"{what} is no intent that this benchkit reads: upgrade benchkit")
    chunks = fields.value("chunks", list)
    if not all(isinstance(chunk, str) for chunk in chunks):
        raise FormatError(f"{what} does not name its chunks")
    prefix = layout.chunks_prefix(dataset)
    return {prefix + chunk for chunk in chunks}


def list_intents(
    store: Store, dataset: str, *, young_seconds: float = YOUNG_SECONDS
) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Return the young intents and the old ones, by the store's clock."""
    intents = list(store.list(layout.uploads_prefix(dataset)))
    if not intents:
        return [], []
    oldest = read_clock(store, dataset) - young_seconds
    young = [info for info in intents if info.modified > oldest]
    return young, [info for info in intents if info.modified <= oldest]


def intended_chunks(store: Store, dataset: str, *, young_seconds: float = YOUNG_SECONDS) -> Iterator[str]:
    """Yield the object names of the chunks that running uploads count on.

    Raises:
        FormatError: A young intent cannot be read, so that what it counts on is not known.
    """
    young, _ = list_intents(store, dataset, young_seconds=young_seconds)
    for info in young:
        try:
            data = store.read(info.name)
        except ObjectNotFoundError:
            continue  # that upload has just ended
        yield from decode_intent(data, dataset=dataset, what=f"{info.name} in {store.url}")


def read_clock(store: Store, dataset: str) -> float:
    """Return the store's time: that of an intent written now, which counts on nothing."""
    return clock.read_clock(store, new_intent_name(dataset), encode_intent(dataset, ()))
