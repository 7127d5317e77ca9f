"""How the readers of a machine share the cache's room, so that none ever waits for another for good."""

from __future__ import annotations

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


def share_room(*, limit_bytes: int, largest_tar_bytes: int, lanes: int, processes: int, workers: int) -> Room:
    """Return what each process gets.

    One tar's room is nobody's: what is being fetched always finds it free, because readers that wait for room
    hold nothing, readers at work let go when their batch is done, and all others together hold less than the
    limit. Only what readers cannot use goes to looking ahead.

    Args:
        limit_bytes: The cache's limit.
        largest_tar_bytes: Bytes of the largest tar.
        lanes: Lanes of the order: a reader has no use for many more chunks.
        processes: Training processes on this machine.
        workers: Loading processes of each; 0 reads in the training process.
    """
    shared = max(limit_bytes // largest_tar_bytes - 1, 0)
    readers = processes * max(workers, 1)
    wanted = lanes + SPARE_CHUNKS
    keep = min(wanted, shared // readers)
    return Room(keep=keep, ahead=(shared - readers * keep) // processes if keep == wanted else 0)


def lookahead_limit(*, largest_tar_bytes: int, lanes: int, processes: int, workers: int) -> int:
    """Return the smallest limit with which each process has room to look ahead; see `share_room`."""
    readers = processes * max(workers, 1)
    return (readers * (lanes + SPARE_CHUNKS) + processes + 1) * largest_tar_bytes


def machine_lanes(*, lanes: int, local: int, count: int) -> int:
    """Return how many lanes the processes of one machine read, at most.

    Args:
        lanes: Lanes of the order.
        local: Processes of this machine.
        count: How many parts a batch is cut into, one for each process in all.
    """
    share = -(-lanes * min(local, count) // count)
    return min(lanes, share + 1)
