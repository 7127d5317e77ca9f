"""The plan is a pure function of keys and sizes, and frozen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchkit.data.plan import choose_allowance, cut, make_plan
from benchkit.data.shuffle import search, shuffle
from benchkit.data.sizes import CHUNK_OVERHEAD
from benchkit.data.walk import Walk
from benchkit.format.digests import digest_key


def digests_of(count: int) -> npt.NDArray[np.uint8]:
    data = b"".join(digest_key(b"%d" % index) for index in range(count))
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, 16)


def walk_of(sizes: list[int], digests: npt.NDArray[np.uint8] | None = None) -> Walk:
    digests = digests_of(len(sizes)) if digests is None else digests
    return Walk(
        digests=digests,
        sizes=np.array(sizes, dtype=np.uint64),
        repeats=np.arange(len(sizes), dtype=np.uint32),
        order=shuffle(digests),
        source_bytes=sum(sizes),
    )


def test_the_shuffle_is_frozen() -> None:
    assert shuffle(digests_of(12)).tolist() == [4, 3, 6, 11, 8, 1, 10, 7, 9, 2, 5, 0]


@given(st.integers(1, 300))
def test_the_shuffle_is_a_permutation(count: int) -> None:
    assert sorted(shuffle(digests_of(count)).tolist()) == list(range(count))


def test_the_shuffle_keeps_nothing_of_the_digests_own_order() -> None:
    digests = digests_of(2000)
    ranks = np.empty(2000)
    ranks[np.argsort(digests.view("<u8")[:, 0])] = np.arange(2000)
    assert abs(np.corrcoef(ranks[shuffle(digests)], np.arange(2000))[0, 1]) < 0.1
    assert abs(np.corrcoef(shuffle(digests), np.arange(2000))[0, 1]) < 0.1


def test_keys_whose_first_half_is_equal_are_ordered_by_the_second() -> None:
    digests = np.zeros((3, 16), dtype=np.uint8)
    digests[:, 8] = [2, 0, 1]
    assert shuffle(digests).tolist() == [1, 2, 0]


def test_equal_keys_stand_together_in_order_of_index() -> None:
    digests = np.concatenate([digests_of(50), digests_of(50)])
    order = shuffle(digests).tolist()
    assert all(order[n] + 50 == order[n + 1] for n in range(0, 100, 2))


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=200),
    st.integers(1, 10_000),
    st.integers(1, 50),
)
def test_a_segment_is_as_long_as_it_fits(sizes: list[int], chunk_bytes: int, max_samples: int) -> None:
    parts = list(cut(np.array(sizes, dtype=np.uint64), chunk_bytes=chunk_bytes, max_samples=max_samples))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(len(sizes)))
    for part in parts:
        length = part.stop - part.start
        total = sum(sizes[part])
        assert 1 <= length <= max_samples
        assert total <= chunk_bytes or length == 1
        if part.stop < len(sizes) and length < max_samples:
            assert total + sizes[part.stop] > chunk_bytes


def test_sizes_beyond_32_bits_are_cut_right() -> None:
    sizes = np.array([1 << 40, 1 << 40, 1], dtype=np.uint64)
    assert list(cut(sizes, chunk_bytes=1 << 40)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_a_segment_has_at_most_65536_samples() -> None:
    assert list(cut(np.zeros(65_537, dtype=np.uint64), chunk_bytes=1)) == [
        slice(0, 65_536),
        slice(65_536, 65_537),
    ]


def test_a_plan_divides_the_written_order() -> None:
    walk = walk_of([1000] * 100)
    plan = make_plan(walk, walk.order, allowance=24, chunk_bytes=10_240 + CHUNK_OVERHEAD, options=b"")
    assert [(part.start, part.stop) for part in plan.segments] == [(n, n + 10) for n in range(0, 100, 10)]
    assert plan.order.tolist() == shuffle(walk.digests).tolist()
    first = plan.order[0]
    assert plan.checks[0] == int.from_bytes(bytes(walk.digests[first][:4]), "little")
    assert plan.repeats.tolist() == list(range(100))


def test_a_plan_of_some_samples_divides_these_in_written_order() -> None:
    walk = walk_of([1000] * 100)
    some = walk.order[::3]
    plan = make_plan(walk, some, allowance=24, chunk_bytes=10_240 + CHUNK_OVERHEAD, options=b"")
    assert [(part.start, part.stop) for part in plan.segments] == [(0, 10), (10, 20), (20, 30), (30, 34)]
    assert plan.order.tolist() == some.tolist()
    assert plan.checks[1] == int.from_bytes(bytes(walk.digests[some[1]][:4]), "little")
    assert plan.source_bytes == 34_000
    none = make_plan(walk, walk.order[:0], allowance=256, chunk_bytes=1, options=b"")
    assert (none.segments, none.source_bytes) == ((), 0)


@given(st.integers(1, 300), st.integers(0, 50))
def test_every_digest_is_found_where_its_sample_stands_and_no_other_is(count: int, strange: int) -> None:
    digests = digests_of(count)
    order = shuffle(digests)
    wanted = np.concatenate([digests[order], digests_of(count + strange)[count:]])
    assert search(digests, order, wanted).tolist() == [*range(count), *[-1] * strange]


def test_digests_that_differ_in_one_half_alone_are_told_apart() -> None:
    digests = np.zeros((4, 16), dtype=np.uint8)
    digests[:, 8] = [2, 0, 4, 6]
    order = shuffle(digests)
    wanted = np.zeros((8, 16), dtype=np.uint8)
    wanted[:, 8] = range(8)
    assert search(digests, order, wanted).tolist() == [0, -1, 1, -1, 2, -1, 3, -1]


def test_a_segment_is_known_by_options_and_keys_alone() -> None:
    def names(
        sizes: list[int], options: bytes = b"", digests: npt.NDArray[np.uint8] | None = None
    ) -> list[str]:
        walk = walk_of(sizes, digests)
        plan = make_plan(walk, walk.order, allowance=0, chunk_bytes=1 << 20, options=options)
        return [part.digest for part in plan.segments]

    assert names([1, 2]) == names([2, 1])
    assert names([1, 2]) != names([1, 2], options=b"other")
    assert names([1, 2]) != names([1, 2], digests=digests_of(3)[1:])


@pytest.mark.parametrize(
    ("overheads", "allowance"), [([1], 256), ([1152], 1280), ([1154] * 64, 1280), ([2000, 4000], 3328)]
)
def test_the_allowance_is_above_the_mean_in_steps(overheads: list[int], allowance: int) -> None:
    assert choose_allowance(overheads) == allowance
    assert allowance >= sum(overheads) / len(overheads)
