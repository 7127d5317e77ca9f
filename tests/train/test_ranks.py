"""Passes in two and three real processes under Accelerate: exact, equal, and read once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.making import make_project, publish_samples
from support.processes import torchrun

SCRIPT = Path(__file__).parent / "ranks.py"
CASES = 2 * 3 * 2 * 2
BATCH = 5


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, ...]]:
    """Return, for each case, what every rank told."""
    folder = tmp_path_factory.mktemp("ranks")
    project = make_project(folder / "project")
    publish_samples(project, "n96", 96, per_chunk=7)
    publish_samples(project, "n101", 101, per_chunk=10)
    torchrun(SCRIPT, request.param, str(folder), project=project)
    told = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(request.param)]
    cases = list(zip(*told, strict=True))
    assert len(cases) == CASES
    assert all(rank["world"] == request.param for case in cases for rank in case)
    return cases


@pytest.mark.processes
def test_gather_for_metrics_returns_every_sample_exactly_once_in_every_mode(ranks):
    for case in ranks:
        total = int(case[0]["name"][1:])
        for rank in case:
            assert sorted(rank["gathered"]) == list(range(total)), rank


@pytest.mark.processes
def test_unshuffled_samples_are_gathered_in_written_order(ranks):
    for case in ranks:
        if not case[0]["shuffle"]:
            assert case[0]["gathered"] == list(range(int(case[0]["name"][1:])))


@pytest.mark.processes
def test_ranks_take_equal_steps_and_know_the_last_one(ranks):
    for case in ranks:
        world, total = case[0]["world"], int(case[0]["name"][1:])
        steps = -(-total // (BATCH * world))
        for rank in case:
            assert rank["steps"] == steps
            assert len(rank["mine"]) == steps * BATCH
            assert rank["ends"] == [False] * (steps - 1) + [True]
            assert not rank["in_dataloader"]


@pytest.mark.processes
def test_a_rank_slices_only_the_rows_that_it_yields(ranks):
    for case in ranks:
        for rank in case:
            assert rank["sliced"] == rank["handed"] == len(rank["mine"])


@pytest.mark.processes
def test_ranks_together_open_each_chunk_at_most_twice_when_the_lanes_allow(ranks):
    # 32 lanes are at least 4 per rank; each rank opens chunks of about its own lanes.
    for case in ranks:
        if case[0]["shuffle"] and case[0]["workers"] == 0:
            opened = sum(rank["chunks_opened"] for rank in case)
            assert case[0]["chunks"] <= opened <= 2 * case[0]["chunks"]
