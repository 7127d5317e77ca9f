"""The shares of the cache's room: never more together than there is, never less than lets one go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchkit.stream.room import SPARE_CHUNKS, Room, lookahead_limit, share_room

shares = {
    "tar_bytes": st.lists(st.integers(1, 1000), min_size=1, max_size=80),
    "lanes": st.integers(1, 64),
    "processes": st.integers(1, 8),
    "workers": st.integers(0, 8),
}


@given(limit=st.integers(0, 100_000), **shares)
def test_what_all_hold_together_leaves_room_for_one_more(limit, tar_bytes, lanes, processes, workers):
    room = share_room(
        limit_bytes=limit, tar_bytes=tar_bytes, lanes=lanes, processes=processes, workers=workers
    )
    held = processes * (max(workers, 1) * room.keep + room.ahead)
    assert held == 0 or (held + 1) * max(tar_bytes) <= limit or sum(tar_bytes) <= limit
    assert 0 <= room.keep <= lanes + SPARE_CHUNKS


@given(**shares)
def test_from_the_limit_for_looking_ahead_on_readers_keep_their_lanes_and_something_is_left(
    tar_bytes, lanes, processes, workers
):
    asked = {"tar_bytes": tar_bytes, "lanes": lanes, "processes": processes, "workers": workers}
    limit = lookahead_limit(**asked)
    room = share_room(limit_bytes=limit, **asked)
    assert room.keep == min(lanes, len(tar_bytes)) + SPARE_CHUNKS
    assert room.ahead >= 1
    assert share_room(limit_bytes=limit - 1, **asked).ahead == 0


def test_where_there_is_room_for_the_whole_version_any_number_of_readers_holds_and_fetches_it():
    asked = {"tar_bytes": [10] * 39 + [5], "lanes": 32, "processes": 8, "workers": 8}
    assert share_room(limit_bytes=395, **asked) == Room(keep=34, ahead=40)
    assert share_room(limit_bytes=394, **asked) == Room(keep=0, ahead=0)
