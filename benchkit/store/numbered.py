"""Numbered objects: immutable documents numbered 1, 2, 3 … under a prefix, published by several at once.

An object's name carries its number and its digest, so no put overwrites another's. Where two publishers took
the same number, the first by the store's clock keeps it; of those of one time, the smaller digest. Whoever
publishes moves the others to the next number, and until then readers do not see them.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from benchkit.errors import NotFoundError, ObjectNotFoundError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.format.layout import MAX_NUMBER, numbered_name, parse_numbered_name
from benchkit.store.base import Store

MAX_BYTES = 256 << 20
"""The largest such object that is read."""

_READINGS = 2
_LOOKS = 20
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """One such object: `number` counts from 1, `modified` is when the store wrote it."""

    prefix: str
    number: int
    digest: str
    modified: float

    @property
    def object_name(self) -> str:
        """Its name in the store."""
        return numbered_name(self.prefix, self.number, self.digest)


def list_numbered(store: Store, prefix: str) -> list[Numbered]:
    """Return the objects that have their number, by number; none is an empty list."""
    return _part(_list_all(store, prefix))[0]


def list_superseded(store: Store, prefix: str) -> list[Numbered]:
    """Return the objects that lost their number, and have been published again under another."""
    everything = _list_all(store, prefix)
    return [loser for loser in _part(everything)[1] if _is_moved(loser, everything)]


def read_numbered(store: Store, item: Numbered) -> bytes:
    """Return an object's bytes, read once more where a first reading has not its digest.

    They are to be checked by who gets them: a damaged object is returned as it is, and of one that is larger
    than `MAX_BYTES` one byte more than that.

    Raises:
        ObjectNotFoundError: It has been deleted.
    """
    data = b""
    for _ in range(_READINGS):
        data = _read_start(store, item.object_name, MAX_BYTES + 1)
        if digest_bytes(data) == item.digest:
            break
    return data


def _read_start(store: Store, name: str, most: int) -> bytes:
    """Return at most so many bytes of an object, in one request where it is small."""
    data = bytearray()
    for block in store.stream(name):
        data += block
        if len(data) >= most:
            break
    return bytes(data[:most])


def publish_numbered(store: Store, prefix: str, data: bytes) -> tuple[Numbered, bool]:
    """Publish the bytes under the next number, unless the newest object holds just these.

    Killed at any moment it leaves them unpublished, or published, or where another publisher of the same
    number keeps it: then they are seen when somebody publishes next.

    Returns:
        The object that holds the bytes, and whether it is new.
    """
    digest = digest_bytes(data)
    present = list_numbered(store, prefix)
    if present and present[-1].digest == digest:
        if read_numbered(store, present[-1]) != data:
            store.write(present[-1].object_name, data)
        return present[-1], False
    number = present[-1].number + 1 if present else 1
    store.write(_name(store, prefix, number, digest), data)
    for look in range(_LOOKS):
        for item in reversed(_settle(store, prefix)):
            if item.digest == digest and item.number >= number:
                return item, True
        # Somebody may be moving it at this moment: a listing in several parts can miss the old name and not
        # yet have the new.
        time.sleep(look * _PAUSE_SECONDS)
    raise NotFoundError(f"the new version in {prefix} vanished from {store.url}: publish it again")


def replace_numbered(store: Store, item: Numbered, data: bytes) -> Numbered:
    """Put the bytes in the place of an object, under its number: they are there before it goes.

    Killed in between it leaves both, of which the old one counts until who publishes next gives the new one a
    number of its own. Of two that replace one object at once, one gets its number and the other the next.

    Returns:
        The object that holds the bytes.
    """
    digest = digest_bytes(data)
    if digest == item.digest:
        return item
    _settle(store, item.prefix)  # what a killed replacement left would have the better right
    name = numbered_name(item.prefix, item.number, digest)
    store.write(name, data)
    store.delete(item.object_name)
    for look in range(_LOOKS):
        everything = _list_all(store, item.prefix)
        ours = [other for other in everything if other.digest == digest]
        holder = next((other for other in everything if other.number == item.number), None)
        if holder is None:  # a publisher took it for one that had lost its number, and moved it
            store.write(name, data)
        elif holder.digest == digest:
            for moved in ours:
                if moved.number != item.number:
                    store.delete(moved.object_name)
            return holder
        else:
            _settle(store, item.prefix)
            for moved in ours:
                if moved.number != item.number:
                    return moved
        time.sleep(look * _PAUSE_SECONDS)
    raise NotFoundError(f"version {item.number} in {item.prefix} vanished from {store.url}: try again")


def _settle(store: Store, prefix: str) -> list[Numbered]:
    """Move every object that lost its number to the next free one, and return those that have theirs.

    Every publisher does this after its put, for others too: one that was killed cannot, and one that looked
    before the winner's put came in does not know that it lost.
    """
    while True:
        everything = _list_all(store, prefix)
        present, losers = _part(everything)
        if not losers:
            return present
        if not _is_moved(losers[0], everything):
            target = _name(store, prefix, present[-1].number + 1, losers[0].digest)
            with suppress(ObjectNotFoundError):  # another publisher has just moved it
                store.write(target, read_numbered(store, losers[0]))
        store.delete(losers[0].object_name)


def _name(store: Store, prefix: str, number: int, digest: str) -> str:
    """Return the name of an object with the next number."""
    if number > MAX_NUMBER:
        raise StoreError(
            f"{prefix} in {store.url} has an object numbered {MAX_NUMBER}, behind which no number is left: "
            "remove it if it is none of yours"
        )
    return numbered_name(prefix, number, digest)


def _part(everything: list[Numbered]) -> tuple[list[Numbered], list[Numbered]]:
    """Return the first object of every number, and those that lost theirs, both in order."""
    present = {item.number: item for item in reversed(everything)}
    return (
        [present[number] for number in sorted(present)],
        [item for item in everything if item is not present[item.number]],
    )


def _is_moved(loser: Numbered, everything: list[Numbered]) -> bool:
    return any(other.digest == loser.digest and other.number > loser.number for other in everything)


def _list_all(store: Store, prefix: str) -> list[Numbered]:
    """Return every such object by number; of one number, those first that have the better right."""
    found = []
    for info in store.list(prefix):
        parsed = parse_numbered_name(prefix, info.name)
        if parsed:
            number, digest = parsed
            found.append(Numbered(prefix=prefix, number=number, digest=digest, modified=info.modified))
    return sorted(found, key=lambda item: (item.number, item.modified, item.digest))
