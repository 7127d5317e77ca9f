"""The shares of the cache's room: never more together than there is, never less than lets one go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchkit.stream.room import SPARE_CHUNKS, share_room

shares = {
    "largest_tar_bytes": st.integers(1, 1000),
    "lanes": st.integers(1, 64),
    "processes": st.integers(1, 8),
    "workers": st.integers(0, 8),
}


@given(limit=st.integers(0, 100_000), **shares)
def test_what_all_hold_together_leaves_room_for_one_more(limit, largest_tar_bytes, lanes, processes, workers):
    room = share_room(
        limit_bytes=limit,
        largest_tar_bytes=largest_tar_bytes,
        lanes=lanes,
        processes=processes,
        workers=workers,
    )
    held = processes * (max(workers, 1) * room.keep + room.ahead)
    assert held == 0 or (held + 1) * largest_tar_bytes <= limit
    assert 0 <= room.keep <= lanes + SPARE_CHUNKS


@given(**shares)
def test_with_room_enough_readers_keep_their_lanes_and_the_rest_is_for_looking_ahead(
    largest_tar_bytes, lanes, processes, workers
):
    slots = processes * max(workers, 1) * (lanes + SPARE_CHUNKS) + processes + 1
    room = share_room(
        limit_bytes=slots * largest_tar_bytes,
        largest_tar_bytes=largest_tar_bytes,
        lanes=lanes,
        processes=processes,
        workers=workers,
    )
    assert room.keep == lanes + SPARE_CHUNKS
    assert room.ahead == 1
