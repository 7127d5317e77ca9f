"""The choice of what leaves the cache: pure arithmetic over sizes and times of last use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One file of the cache.

    Attributes:
        name: Its file name.
        size: Bytes it takes, or will take.
        used_ns: When it was last used, nanoseconds since 1970.
    """

    name: str
    size: int
    used_ns: int


def choose_evictions(entries: Iterable[CacheEntry], *, excess_bytes: int) -> list[CacheEntry]:
    """Return the entries that should go, least recently used first (by name where the times are equal).

    Args:
        entries: What may be chosen from, in any order.
        excess_bytes: Bytes that have to become free; zero or less chooses nothing.

    Returns:
        The fewest entries, in that order, that free the bytes together; all of them where that is not enough.
    """
    chosen: list[CacheEntry] = []
    for entry in sorted(entries, key=lambda entry: (entry.used_ns, entry.name)):
        if excess_bytes <= 0:
            break
        chosen.append(entry)
        excess_bytes -= entry.size
    return chosen


def smallest_limit(*, lanes: int, largest_tar_bytes: int) -> int:
    """Return the least bytes with which a machine can read: a tar for every lane, and one on its way in."""
    return (lanes + 1) * largest_tar_bytes
