"""Laws of the batches: equal steps on every rank, each sample once, padding last and counted."""

from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.orders import SIZES, cut, everything, global_batch, make, one_pass, visit

from benchkit.errors import UsageError
from benchkit.stream.order import batch_positions, count_batches, lane_order, mix_seed, remainder

batches = {
    "total": st.sampled_from(SIZES[1:]),
    "world": st.integers(1, 8),
    "batch_size": st.integers(1, 7),
    "lanes": st.integers(1, 40),
    "start": st.fractions(0, 1),
}


@settings(max_examples=150, deadline=None)
@given(**batches)
def test_from_any_position_on_each_rest_sample_comes_once_and_the_padding_last(
    total, world, batch_size, lanes, start
):
    position = int(total * start)
    stride, left = world * batch_size, total - position
    ranks = one_pass(total, position, batch_size, world, lanes)
    gathered = ranks.reshape(len(ranks), stride)
    counted = remainder(total=total, position=position, batch_size=batch_size, count=world)
    full, last = (gathered[:-1], gathered[-1]) if counted else (gathered, gathered[:0].ravel())
    assert sorted([*full.ravel().tolist(), *last[:counted].tolist()]) == list(range(position, total))
    assert last[counted:].tolist() == [number % total for number in range(len(last) - counted)]
    assert counted == left % stride


@given(**batches)
def test_the_steps_are_the_batches_that_fit_and_the_one_that_does_not(total, world, batch_size, lanes, start):
    where = {"total": total, "position": int(total * start), "batch_size": batch_size, "count": world}
    left = Fraction(total - int(total * start), world * batch_size)
    assert count_batches(**where, drop=True) == left.__floor__()
    assert count_batches(**where, drop=False) == left.__ceil__()
    assert count_batches(**where | {"position": total}, drop=False) == 0
    assert remainder(**where | {"position": total}) == 0


@settings(max_examples=150, deadline=None)
@given(**batches)
def test_the_real_samples_of_a_global_batch_stand_by_lane_and_step(total, world, batch_size, lanes, start):
    position = min(int(total * start), total - 1)
    visits = lane_order(lanes).tolist()
    real = range(position, min(position + world * batch_size, total))
    expected = sorted(real, key=lambda number: (visits[number % lanes], number // lanes))
    got = global_batch(total, position, batch_size, world, lanes).ravel().tolist()
    assert got[: len(real)] == expected


@pytest.mark.parametrize(
    ("total", "position", "lanes"), [(203, 0, 5), (203, 48, 32), (203, 180, 32), (5, 3, 4)]
)
def test_what_a_global_batch_holds_does_not_depend_on_how_many_share_it(total, position, lanes):
    whole = global_batch(total, position, 24, 1, lanes).ravel().tolist()
    for world in (2, 3, 4, 6, 8, 12, 24):
        assert global_batch(total, position, 24 // world, world, lanes).ravel().tolist() == whole


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_pass_begun_after_some_batches_yields_the_batches_that_were_left(steps):
    whole = one_pass(203, 0, 5, 4, 32)
    assert np.array_equal(one_pass(203, steps * 20, 5, 4, 32), whole[steps:])


@settings(deadline=None)
@given(batches["total"], batches["lanes"], st.lists(st.tuples(*(st.integers(1, 7),) * 3), max_size=6))
def test_a_pass_stopped_and_resumed_by_others_visits_every_sample_once(total, lanes, legs):
    order = make(cut(total, 50), lanes=lanes)
    position, seen = 0, []
    for world, batch_size, steps in [*legs, (1, total, 1)]:
        for batch in one_pass(total, position, batch_size, world, lanes)[:steps]:
            real = min(batch.size, total - position)
            seen += visit(order, 0, batch.ravel()[:real])
            position += real
    assert sorted(seen) == everything(order.rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"position": 10}, "position 10 of 10"),
        ({"position": -1}, "position -1"),
        ({"total": 0, "position": 0}, "position 0 of 0"),
        ({"index": 2}, r"index 2 is outside 0\.\.1"),
        ({"index": -1}, "index -1"),
    ],
)
def test_batches_that_are_not_there_are_refused(change, told):
    where = {"total": 10, "position": 0, "batch_size": 2, "index": 0, "count": 2, "lanes": 3}
    with pytest.raises(UsageError, match=told):
        batch_positions(**where | change)


def test_steps_from_behind_the_end_are_refused():
    for count in (remainder, partial(count_batches, drop=False)):
        with pytest.raises(UsageError, match=r"position 11 is outside 0\.\.10"):
            count(total=10, position=11, batch_size=2, count=2)


def test_different_batches_have_different_seeds_that_fit_a_torch_generator():
    keys = list(product([0, 1, (1 << 63) - 1], [0, 1, 2], [0, 64, 128], [0, 1, 2]))
    seeds = {mix_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
