"""The law of elasticity: whoever goes on, with whatever batches, gets exactly what was not consumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.making import make_project, publish_samples
from support.processes import torchrun
from support.reading import labels_of, make

from benchkit import Shard

TOTALS = {"n53": 53, "n203": 203, "n240": 240}
GLOBAL = 24


class Leg(NamedTuple):
    """A part of a run: ranks, batch size, workers, and steps until it is stopped (0 is never)."""

    ranks: int
    batch: int
    workers: int
    steps: int


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("elastic")
    project = make_project(folder / "project")
    for name, total in TOTALS.items():
        publish_samples(project, name, total, per_chunk=9, size=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHKIT_PROJECT", str(project))
        patch.setenv("BENCHKIT_CACHE_DIR", str(folder / "cache"))
        yield project


def run_leg(name: str, leg: Leg, state: dict | None, **more: object) -> tuple[list[list[int]], dict, bool]:
    """Return the real samples of every global batch, the state afterwards, and whether the epoch is over."""
    ranks, states = [], []
    for index in range(leg.ranks):
        shard = Shard(index=index, count=leg.ranks)
        loader = make(name, leg.batch, leg.workers, shard=shard, **more)
        if state:
            loader.load_state_dict(state)
        steps, batches = len(loader), []
        if leg.steps == 0 or steps == 0:
            batches = list(loader)
        for batch in loader if leg.steps and steps else ():
            batches.append(batch)
            if len(batches) == min(leg.steps, steps):
                break
        assert len(batches) == (min(leg.steps, steps) if leg.steps else steps)
        ranks.append(batches)
        states.append(loader.state_dict())
    assert all(other == states[0] for other in states), "the ranks' states differ"
    gathered = [labels_of(list(parts)) for parts in zip(*ranks, strict=True)]
    over = len(gathered) == steps
    if over and gathered and loader.remainder:
        gathered[-1] = gathered[-1][: loader.remainder]
    return gathered, states[0], over


def run_chain(name: str, legs: list[Leg], **more: object) -> None:
    """Run the legs one after the other and whatever is left, and check that all came exactly once."""
    total, consumed, state, over = TOTALS[name], [], None, False
    for leg in [*legs, Leg(2, 5, 0, 0)]:
        if over:
            break
        batches, state, over = run_leg(name, leg, state, **more)
        consumed += [label for batch in batches for label in batch]
        assert len(set(consumed)) == len(consumed), "a sample came twice"
        if not over:
            assert state["position"] == len(consumed)
    assert sorted(consumed) == list(range(total))


@pytest.mark.usefixtures("projects")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(TOTALS)),
    legs=st.lists(
        st.builds(Leg, st.integers(1, 8), st.integers(1, 7), st.just(0), st.integers(1, 6)), max_size=5
    ),
    shuffle=st.booleans(),
    lanes=st.sampled_from((None, 1, 5, 40)),
)
def test_any_chain_of_ranks_batches_and_stops_consumes_every_sample_once(name, legs, shuffle, lanes):
    run_chain(name, legs, shuffle=shuffle, open_chunks=lanes)


@pytest.mark.usefixtures("projects")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "legs",
    [
        [Leg(8, 2, 0, 3), Leg(3, 5, 0, 2), Leg(5, 1, 0, 7), Leg(1, 9, 0, 0)],
        [Leg(1, 7, 2, 5), Leg(1, 4, 8, 9), Leg(1, 5, 0, 0)],
        [Leg(2, 3, 2, 4), Leg(2, 5, 3, 3), Leg(1, 11, 1, 0)],
        [Leg(32, 1, 0, 1), Leg(16, 2, 0, 1), Leg(8, 4, 0, 1), Leg(4, 8, 0, 0)],
    ],
    ids=["ranks-8-3-5-1", "workers-2-8-0", "both", "halved"],
)
def test_ranks_and_workers_come_and_go_and_every_sample_is_consumed_once(legs, shuffle):
    run_chain("n203", legs, shuffle=shuffle)


@pytest.mark.usefixtures("projects")
@pytest.mark.parametrize("start", [0, 24, 29, 200])
def test_a_global_batch_holds_the_same_samples_for_any_ranks_and_workers(start):
    expected: list[set[int]] | None = None
    state = make("n203", 1, shuffle=True).state_dict() | {"position": start}
    worlds = [(ranks, 0) for ranks in (1, 2, 3, 4, 6, 8, 12, 24)] + [(1, 3), (2, 1), (3, 2)]
    for ranks, workers in worlds:
        leg = Leg(ranks, GLOBAL // ranks, workers, 0)
        batches, _, over = run_leg("n203", leg, state, shuffle=True)
        assert over
        sets = [set(batch) for batch in batches]
        expected = expected or sets
        assert sets == expected, (ranks, workers)
    assert sum(len(batch) for batch in expected) == 203 - start


@pytest.mark.slow
@pytest.mark.processes
def test_real_processes_that_come_and_go_consume_every_sample_once(tmp_path):
    project = make_project(tmp_path / "project")
    publish_samples(project, "numbers", 203, per_chunk=9, size=3)
    consumed: list[int] = []
    for leg in (Leg(3, 5, 1, 4), Leg(2, 7, 2, 3), Leg(1, 4, 0, 2), Leg(4, 3, 0, 0)):
        arguments = (str(tmp_path), str(leg.batch), str(leg.workers), str(leg.steps))
        torchrun(Path(__file__).parent / "leg.py", leg.ranks, *arguments, project=project)
        told = json.loads((tmp_path / "told.json").read_text())
        assert told["world"] == leg.ranks
        assert told["left"] == -(-(203 - len(consumed)) // (leg.ranks * leg.batch))
        consumed += told["gathered"]
        assert len(set(consumed)) == len(consumed)
    assert sorted(consumed) == list(range(203))
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (1, 0)
