"""Qualities of the order: how well it mixes, and how many chunks it takes."""

from itertools import product

import numpy as np
import pytest
from support.orders import global_batch, locate, make, one_pass

from benchkit.stream.order import LEAST_CACHE_BYTES


def lane_chunks(order, epoch=0):
    """The chunk that each lane reads at each step that all lanes have, (steps, lanes)."""
    steps = order.total // order.lanes
    return order.chunks(epoch, np.arange(steps * order.lanes)).reshape(steps, order.lanes)


LANDSCAPES = [
    (np.full(400, 1000), 44),
    (np.full(200, 1000), 32),
    (np.full(64, 500), 32),
    (np.full(100, 100), 8),
    (300 + np.arange(500) * 7919 % 700, 32),
]


@pytest.mark.parametrize(("rows", "lanes"), LANDSCAPES)
@pytest.mark.parametrize("epoch", [0, 1])
def test_lanes_do_not_change_chunk_at_the_same_step(rows, lanes, epoch):
    changes = np.diff(lane_chunks(make(rows, lanes=lanes), epoch), axis=0) != 0
    assert changes.any()
    assert changes.sum(axis=1).max() <= 4


@pytest.mark.parametrize(("rows", "lanes"), LANDSCAPES)
@pytest.mark.parametrize("epoch", [0, 1])
def test_no_window_opens_many_more_chunks_than_there_are_lanes(rows, lanes, epoch):
    order = make(rows, lanes=lanes)
    chunks = order.chunks(epoch, np.arange(order.total))
    for size in (lanes, 256):
        begins = range(0, order.total - size, 61)
        most = max(len(np.unique(chunks[begin : begin + size])) for begin in begins)
        finished = 2 * size / rows.min()
        assert most <= lanes + 4 + finished


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_batch_draws_on_nearly_as_many_chunks_as_there_are_lanes(epoch):
    order = make([1000] * 400, lanes=44)
    whole = order.chunks(epoch, np.arange(order.total // 256 * 256)).reshape(-1, 256)
    assert min(len(np.unique(batch)) for batch in whole) >= 40
    small = order.chunks(epoch, np.arange(order.total // 16 * 16)).reshape(-1, 16)
    assert min(len(np.unique(batch)) for batch in small) >= 14


def rank_chunks(order, epoch, batch_size, world):
    """The chunks that each rank reads in the full batches of an epoch."""
    stride = batch_size * world
    ranks = one_pass(order.total // stride * stride, 0, batch_size, world, order.lanes)
    chunks = order.chunks(epoch, ranks.ravel()).reshape(ranks.shape)
    return [set(np.unique(chunks[:, index]).tolist()) for index in range(world)]


@pytest.mark.parametrize(("world", "batch_size", "lanes"), [(4, 24, 32), (2, 16, 32), (8, 4, 32), (5, 8, 20)])
def test_ranks_read_the_same_chunks_in_every_epoch(world, batch_size, lanes):
    order = make([40] * 300, lanes=lanes)
    first = rank_chunks(order, 0, batch_size, world)
    assert all(rank_chunks(order, epoch, batch_size, world) == first for epoch in (1, 2))
    assert max(len(chunks) for chunks in first) < 2 * 300 / world


@pytest.mark.parametrize(
    ("world", "batch_size", "lanes"),
    [
        (world, batch_size, lanes)
        for world, batch_size, lanes in product(
            range(1, 9), [1, 2, 5, 32], [4, 8, 13, 20, 29, 32, 37, 44, 64]
        )
        if lanes >= 4 * world
    ],
)
def test_all_ranks_together_fetch_at_most_twice_as_many_chunks_as_there_are(world, batch_size, lanes):
    chunks = 4 * lanes
    order = make([24] * chunks, lanes=lanes)
    fetched = sum(len(read) for read in rank_chunks(order, 0, batch_size, world))
    assert chunks <= fetched <= 2 * chunks


def test_any_position_among_a_billion_samples_is_found_and_shared_out():
    order = make([65_536] * 16_384, lanes=32)
    total = order.total
    for position in (0, total // 2, total - 64):
        batch = global_batch(total, position, 8, 8, 32)
        assert sorted(batch.ravel().tolist()) == list(range(position, position + 64))
        chunks = order.chunks(5, batch.ravel())
        assert 30 <= len(np.unique(chunks)) <= 36
    found, rows = locate(order, 5, np.array([total - 1]))
    assert found[0] == chunks[batch.ravel() == total - 1]
    assert 0 <= rows[0] < 65_536


def test_the_permutations_kept_stay_within_their_bytes():
    small = make([1000] * 4000, lanes=44)
    locate(small, 0, np.arange(small.total))
    assert LEAST_CACHE_BYTES - 2000 < small._permutations.used_bytes <= LEAST_CACHE_BYTES
    large = make([65_536] * 100, lanes=32)
    locate(large, 0, np.arange(large.total))
    assert large._permutations.used_bytes == large._permutations.limit_bytes == 2 * 32 * 65_536 * 2


def test_over_the_epochs_every_row_of_a_chunk_stands_everywhere_equally_often():
    epochs, rows = 4000, 8
    order = make([rows], lanes=1)
    counts = np.zeros((rows, rows))
    for epoch in range(epochs):
        counts[np.arange(rows), locate(order, epoch, np.arange(rows))[1]] += 1
    expected = epochs / rows
    # Chi-squared of (rows - 1)^2 = 49 degrees of freedom is above 85.4 once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


def test_over_the_seeds_every_chunk_begins_the_line_equally_often():
    seeds, chunks = 4000, 8
    first = [make([1] * chunks, seed=seed, lanes=1)._line.chunk[0] for seed in range(seeds)]
    expected = seeds / chunks
    # Chi-squared of 7 degrees of freedom is above 24.3 once in a thousand.
    assert ((np.bincount(first, minlength=chunks) - expected) ** 2 / expected).sum() < 24.3
