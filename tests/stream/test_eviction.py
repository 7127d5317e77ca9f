"""Laws of the choice of what leaves the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchkit.stream.eviction import CacheEntry, choose_evictions, smallest_limit


def entry(name, size, used_ns):
    return CacheEntry(name=name, size=size, used_ns=used_ns)


OLD, MID, NEW = entry("c", 10, 1), entry("b", 20, 2), entry("a", 30, 3)


@pytest.mark.parametrize(
    ("excess_bytes", "chosen"),
    [
        (-1, []),
        (0, []),
        (1, [OLD]),
        (10, [OLD]),
        (11, [OLD, MID]),
        (30, [OLD, MID]),
        (31, [OLD, MID, NEW]),
        (60, [OLD, MID, NEW]),
        (61, [OLD, MID, NEW]),
    ],
)
def test_the_least_recently_used_go_first_and_no_more_than_needed(excess_bytes, chosen):
    assert choose_evictions([NEW, OLD, MID], excess_bytes=excess_bytes) == chosen


def test_equal_times_are_told_apart_by_name():
    twins = [entry("z", 1, 5), entry("y", 1, 5)]
    assert [one.name for one in choose_evictions(twins, excess_bytes=1)] == ["y"]


def test_nothing_can_be_chosen_from_nothing():
    assert choose_evictions([], excess_bytes=1) == []


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=12),
    st.integers(-10, 400),
)
def test_what_is_chosen_frees_enough_and_is_older_than_what_stays(rows, excess_bytes):
    entries = [entry(str(number), size, used) for number, (size, used) in enumerate(rows)]
    chosen = choose_evictions(entries, excess_bytes=excess_bytes)
    rest = [one for one in entries if one not in chosen]
    freed = sum(one.size for one in chosen)
    assert freed >= excess_bytes or not rest
    assert not chosen or freed - chosen[-1].size < excess_bytes
    assert all(gone.used_ns <= kept.used_ns for gone in chosen for kept in rest)


def test_the_smallest_limit_is_a_tar_for_every_lane_and_one_on_its_way():
    assert smallest_limit(lanes=32, largest_tar_bytes=100) == 3300
