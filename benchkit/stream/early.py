"""Early rows: read where the store has them, before their chunks are in the cache.

So a first batch does not wait for whole chunks. Only members of plain chunks can be found so, and every one
of them is checked by the index, and that by the manifest.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from benchkit.errors import BenchKitError
from benchkit.format.manifest import ChunkEntry
from benchkit.format.sample import Sample

SHARE = 8
"""Rows that come to more than one byte in so many of their chunk wait for the chunk."""
MOST_BYTES = 32 << 20
"""What is read early for a batch has at most about so many bytes."""
NEAR_BYTES = 1 << 20
"""Members that take at most this each are read at once: a request takes longer than this much more of it."""
_AT_ONCE = 32

Visit = tuple[int, Sequence[int]]
"""A chunk and live rows of it."""
Part = Callable[[], list[Sample]]
"""Reads some of the rows of a visit."""
_Result = TypeVar("_Result")


def can_be_early(chunk: ChunkEntry) -> bool:
    """Return whether members of the chunk can be found where the store has it."""
    return chunk.codec == "none"


def choose_early(visits: Sequence[Visit], chunks: Sequence[ChunkEntry]) -> list[Visit]:
    """Return which of these visits are worth reading early."""
    chosen, left = [], MOST_BYTES
    for chunk, rows in visits:
        entry = chunks[chunk]
        size = len(rows) * entry.tar_bytes // entry.samples
        if can_be_early(entry) and size * SHARE <= entry.tar_bytes and size <= left:
            left -= size
            chosen.append((chunk, rows))
    return chosen


def read_early(
    visits: Sequence[Visit], open_rows: Callable[[int, Sequence[int]], Sequence[Part]]
) -> list[list[Sample] | None]:
    """Return the samples of each visit, much being read at once; None where that failed.

    Whoever fetches the chunk will meet what failed, and tells it.

    Args:
        visits: Chunks and rows.
        open_rows: Opens a chunk in the store, and returns what reads its rows: each part some of them.
    """
    opened = _call_at_once([partial(open_rows, chunk, rows) for chunk, rows in visits])
    read = iter(_call_at_once([part for parts in opened for part in parts or ()]))
    found: list[list[Sample] | None] = []
    for parts in opened:
        some = [samples for samples in islice(read, len(parts or ())) if samples is not None]
        found.append(list(chain.from_iterable(some)) if parts and len(some) == len(parts) else None)
    return found


def _call_at_once(calls: Sequence[Callable[[], _Result]]) -> list[_Result | None]:
    """Return what each returns, several being made at once; None where the store failed."""
    results: list[_Result | None] = [None] * len(calls)
    errors: list[BaseException] = []
    waiting = deque(enumerate(calls))

    def work() -> None:
        while waiting and not errors:
            try:
                number, call = waiting.popleft()
            except IndexError:  # another thread has taken it meanwhile
                return
            try:
                results[number] = call()
            except BenchKitError:
                continue
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)

    # A pool's threads would keep the process from ending while a store stands still.
    count = min(_AT_ONCE, len(calls))
    threads = [threading.Thread(target=work, name="benchkit-early", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
