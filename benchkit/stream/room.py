"""How the readers of a machine share the cache's room, so that none ever waits for another for good."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

SPARE_CHUNKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one process may hold open.

    Attributes:
        keep: Chunks that a reader keeps open from one batch to the next; 0 lets all go after each batch.
        ahead: Chunks that a look-ahead holds.
    """

    keep: int
    ahead: int


def share_room(
    *, limit_bytes: int, tar_bytes: Collection[int], lanes: int, processes: int, workers: int
) -> Room:
    """Return what each process gets.

    One tar's room is nobody's: what is being fetched always finds it free, because readers that wait for room
    hold nothing, readers at work let go when their batch is done, and all others together hold less than the
    limit. Only what readers cannot use goes to looking ahead. Where there is room for the whole version, each
    may hold all of it: what several hold is there once.

    Args:
        limit_bytes: The cache's limit.
        tar_bytes: Bytes of each tar of the version.
        lanes: Lanes of the order: a reader has no use for many more chunks.
        processes: Training processes on this machine.
        workers: Loading processes of each; 0 reads in the training process.
    """
    wanted = _wanted(tar_bytes, lanes)
    if limit_bytes >= sum(tar_bytes):
        return Room(keep=wanted, ahead=len(tar_bytes))
    shared = max(limit_bytes // max(tar_bytes) - 1, 0)
    readers = processes * max(workers, 1)
    keep = min(wanted, shared // readers)
    return Room(keep=keep, ahead=(shared - readers * keep) // processes if keep == wanted else 0)


def lookahead_limit(*, tar_bytes: Collection[int], lanes: int, processes: int, workers: int) -> int:
    """Return the smallest limit with which each process has room to look ahead; see `share_room`."""
    held = processes * (max(workers, 1) * _wanted(tar_bytes, lanes) + 1)
    return min(sum(tar_bytes), (held + 1) * max(tar_bytes))


def _wanted(tar_bytes: Collection[int], lanes: int) -> int:
    """Return how many chunks a reader has a use for."""
    return min(lanes, len(tar_bytes)) + SPARE_CHUNKS


def machine_lanes(*, lanes: int, local: int, count: int) -> int:
    """Return how many lanes the processes of one machine read, at most.

    Args:
        lanes: Lanes of the order.
        local: Processes of this machine.
        count: How many parts a batch is cut into, one for each process in all.
    """
    share = -(-lanes * min(local, count) // count)
    return min(lanes, share + 1)
