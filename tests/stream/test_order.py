"""Laws of the order: every epoch a permutation, the one that the design describes, and the frozen one.

`PYTHONPATH=tests python tests/stream/test_order.py` computes the frozen order anew; that needs a new order
version.
"""

import doctest
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.orders import (
    SIZES,
    cut,
    everything,
    global_batch,
    locate,
    make,
    reference_epoch,
    reference_lane_order,
    visit,
)

from benchkit.errors import UsageError
from benchkit.stream import order as order_module
from benchkit.stream.order import ORDER_VERSION, lane_order, mix_seed

FIXTURES = Path(__file__).with_name("order_fixtures.json")

orders = st.builds(
    make,
    st.lists(st.integers(0, 30), max_size=12),
    seed=st.integers(0, (1 << 63) - 1),
    shuffle=st.booleans(),
    lanes=st.integers(1, 40),
)


def compute(frozen):
    """Return the frozen cases with their results computed now."""

    def order_of(case, rows):
        return make(rows, seed=case["seed"], shuffle=case["shuffle"], lanes=case["lanes"])

    def digest(case):
        order = order_of(case, [case["per_chunk"]] * case["chunks"])
        found = locate(order, case["epoch"], np.arange(order.total))
        return hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in found)).hexdigest()

    def ranks(case):
        return global_batch(*(case[key] for key in ("total", "position", "batch_size", "world", "lanes")))

    return {
        "order": ORDER_VERSION,
        "epochs": [
            case | {"samples": visit(order_of(case, case["rows"]), case["epoch"])}
            for case in frozen["epochs"]
        ],
        "digests": [case | {"sha256": digest(case)} for case in frozen["digests"]],
        "batches": [case | {"ranks": ranks(case).tolist()} for case in frozen["batches"]],
        "lane_orders": {lanes: lane_order(int(lanes)).tolist() for lanes in frozen["lane_orders"]},
        "batch_seeds": [[*keys, mix_seed(*keys)] for *keys, _ in frozen["batch_seeds"]],
    }


def test_the_order_is_the_frozen_one():
    frozen = json.loads(FIXTURES.read_text())
    assert json.loads(json.dumps(compute(frozen))) == frozen


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_a_fresh_process_has_the_same_order(hash_seed):
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--print"],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(FIXTURES.read_text())


@settings(max_examples=150, deadline=None)
@given(orders, st.integers(0, 1 << 40))
def test_every_epoch_is_a_permutation_and_the_one_that_the_design_describes(order, epoch):
    visited = visit(order, epoch)
    assert sorted(visited) == everything(order.rows)
    assert visited == reference_epoch(order.rows.tolist(), order.seed, order.shuffle, order.lanes, epoch)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("per_chunk", [1, 7, 64, 2000])
@pytest.mark.parametrize("total", SIZES)
def test_every_epoch_visits_every_sample_once(total, per_chunk, shuffle):
    rows = [size for chunk in cut(total, per_chunk) for size in (0, chunk)]
    for lanes in (1, 2, 3, 8, 32, 40):
        order = make(rows, seed=lanes, shuffle=shuffle, lanes=lanes)
        for epoch in (0, 1, 7):
            assert sorted(visit(order, epoch)) == everything(rows)


@pytest.mark.parametrize("rows", [[], [0], [0, 0, 0]])
def test_a_dataset_without_samples_has_an_empty_order(rows):
    order = make(rows)
    assert order.total == 0
    assert visit(order, 0, np.empty(0, dtype=np.int64)) == []


def test_unshuffled_with_one_lane_is_the_written_order_in_every_epoch():
    order = make([5, 0, 70, 3], shuffle=False, lanes=1)
    for epoch in (0, 1, 9):
        assert visit(order, epoch) == everything([5, 0, 70, 3])


def test_another_seed_or_epoch_is_another_order_and_the_same_is_the_same():
    first = visit(make([40, 50, 60], seed=1), 0)
    assert visit(make([40, 50, 60], seed=1), 0) == first
    others = [visit(make([40, 50, 60], seed=2), 0), visit(make([40, 50, 60], seed=1), 1)]
    for other in others:
        assert sum(one == another for one, another in zip(first, other, strict=True)) < 15
    assert others[0] != others[1]


def test_rows_are_permuted_anew_in_each_epoch_and_differently_in_each_chunk():
    order = make([200, 200], lanes=1)
    seen = set()
    for epoch in (0, 1):
        for chunk in (0, 1):
            rows = [row for at, row in visit(order, epoch) if at == chunk]
            assert sum(row == place for place, row in enumerate(rows)) < 10
            seen.add(tuple(rows))
    assert len(seen) == 4


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(0, 9))
def test_positions_are_found_alike_alone_together_and_in_any_sequence(data, epoch):
    order = make([40, 50, 0, 60], lanes=8)
    whole = visit(order, epoch)
    asked = data.draw(st.lists(st.integers(0, 149), max_size=20))
    positions = np.array(asked, dtype=np.int64)
    fresh = make([40, 50, 0, 60], lanes=8)
    assert visit(fresh, epoch, positions) == [whole[position] for position in asked]
    assert fresh.chunks(epoch, positions).tolist() == [whole[position][0] for position in asked]


@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 32, 40, 1000])
def test_lanes_are_visited_each_once_in_golden_ratio_order(lanes):
    assert lane_order(lanes).tolist() == reference_lane_order(lanes)
    assert sorted(lane_order(lanes).tolist()) == list(range(lanes))


@pytest.mark.parametrize("lanes", [4, 13, 32, 44])
def test_neighbouring_positions_are_spread_over_the_lanes(lanes):
    visits = lane_order(lanes)
    for length in range(2, lanes):
        for begin in range(lanes - length + 1):
            lower = int((visits[begin : begin + length] < lanes / 2).sum())
            assert abs(lower - length / 2) <= 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_means_of_batches_spread_as_if_samples_or_at_worst_lanes_were_drawn_at_random(seed):
    order, batch = make([1000] * 400, seed=seed, lanes=44), 256
    chunks, rows = locate(order, 0, np.arange(order.total // batch * batch))

    def spread(label):
        """Standard deviation of the batches' means, in units of that of a full shuffle."""
        return label.reshape(-1, batch).mean(axis=1).std() / (label.std() / np.sqrt(batch))

    assert spread(rows) < 1.2
    assert spread(rows % 10) < 1.2
    decided_by_chunk = np.sqrt(batch / order.lanes)  # 44 independent draws in a batch of 256: 2.41
    assert spread(chunks) < 1.25 * decided_by_chunk


@pytest.mark.parametrize("position", [0, 50_000_000, 99_999_872])
def test_a_position_is_found_at_the_same_cost_wherever_it_is(position):
    order = make([10_000] * 10_000, lanes=32)
    chunks, _ = locate(order, 5, np.arange(position, position + 128))
    permuted = order._permutations.used_bytes // (2 * 10_000)
    assert permuted == len(np.unique(chunks)) <= 40
    assert len(order._tables) == 1


def test_few_epochs_are_kept():
    order = make([1000] * 50)
    for epoch in range(6):
        order.chunks(epoch, np.array([0]))
    assert list(order._tables) == [4, 5]


def test_a_pickled_order_is_the_same_and_carries_nothing_computed():
    order = make([1000] * 20, lanes=8)
    bare = len(pickle.dumps(order))
    expected = visit(order, 1)
    assert len(pickle.dumps(order)) == bare < 1000
    again = pickle.loads(pickle.dumps(order))  # noqa: S301
    assert again == order
    assert hash(again) == hash(order)
    assert again._permutations.used_bytes == len(again._tables) == 0
    assert visit(again, 1) == expected


@pytest.mark.parametrize(
    "change", [{"rows": [3, 4]}, {"rows": [3]}, {"seed": 1}, {"shuffle": False}, {"lanes": 5}]
)
def test_orders_of_other_arguments_are_not_equal(change):
    facts = {"rows": [4, 3], "seed": 0, "shuffle": True, "lanes": 4}
    assert make(**facts) == make(**facts)
    assert make(**facts | change) != make(**facts)


def test_what_an_order_is_made_of_cannot_be_changed_from_outside():
    rows = np.array([3, 4])
    order = order_module.Order(rows=rows, seed=0, shuffle=True, lanes=2)
    before = visit(order, 0)
    rows[0] = 1
    assert visit(order, 0) == before
    with pytest.raises(ValueError, match="read-only"):
        order.rows[0] = 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": [[1, 2]]}, "one number"),
        ({"rows": [3, -1]}, "one number"),
        ({"seed": -1}, "seed -1 is outside"),
        ({"seed": 1 << 63}, "is outside 0..2"),
        ({"lanes": 0}, "0 lanes"),
    ],
)
def test_arguments_outside_their_bounds_are_refused(change, told):
    with pytest.raises(UsageError, match=told):
        make(**{"rows": [3, 4]} | change)


def test_in_written_order_any_positions_are_found_neighbours_or_not():
    rows = [3, 0, 4, 1, 5]
    order, every = make(rows, shuffle=False, lanes=1), everything(rows)
    for start in range(len(every)):
        for end in range(start, len(every) + 1):
            assert visit(order, 0, np.arange(start, end)) == every[start:end]
    for some in ([2, 0, 1], [0, 1, 1, 3], [4, 6, 5, 7], [12, 0], [3, 5], [9, 8], [5, 5]):
        assert visit(order, 0, np.array(some)) == [every[position] for position in some]


@pytest.mark.parametrize(
    ("epoch", "positions", "told"), [(-1, [0], "epoch -1"), (0, [7], "inside 0..6"), (0, [0, -1], "-1..0")]
)
def test_positions_and_epochs_outside_their_bounds_are_refused(epoch, positions, told):
    order = make([3, 4])
    for find in (order.locate, order.chunks):
        with pytest.raises(UsageError, match=told):
            find(epoch, np.array(positions))


def test_the_example_in_the_documentation_is_right():
    assert doctest.testmod(order_module, extraglobs={"Order": order_module.Order}).failed == 0
    assert doctest.testmod(order_module).attempted > 0


if __name__ == "__main__":
    computed = compute(json.loads(FIXTURES.read_text()))
    if "--print" in sys.argv:
        print(json.dumps(computed))
    else:
        lines = [
            f"{json.dumps(key)}: [\n  {(',' + chr(10) + '  ').join(map(json.dumps, value))}\n]"
            if isinstance(value, list)
            else f"{json.dumps(key)}: {json.dumps(value)}"
            for key, value in computed.items()
        ]
        FIXTURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
