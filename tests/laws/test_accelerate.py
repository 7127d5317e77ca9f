"""The laws under Accelerate: in every mode, from every position, with several loaders, exact and in step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import Accelerator, skip_first_batches
from support.making import make_project, publish_samples
from support.processes import torchrun
from support.reading import labels_of, make

from benchkit.errors import UsageError
from benchkit.stream.chunks import source_of

BATCH = 5

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return what every rank told."""
    folder = tmp_path_factory.mktemp("accelerated")
    project = make_project(folder / "project")
    publish_samples(project, "n96", 96, per_chunk=7, size=3)
    publish_samples(project, "n101", 101, per_chunk=10, size=3)
    torchrun(Path(__file__).parent / "accelerated.py", request.param, str(folder), project=project)
    told = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(request.param)]
    assert all(rank["world"] == request.param for rank in told)
    return told


def steps_from(position: int, world: int, total: int = 101) -> int:
    return -(-(total - position) // (BATCH * world))


def test_in_every_mode_and_from_every_position_the_gathered_samples_are_the_rest(ranks):
    for rank in ranks:
        assert len(rank["modes"]) == 3 * 2 * 2 * 4
        for case in rank["modes"]:
            assert case["labels"] == list(range(case["position"], 101))
            assert case["steps"] == steps_from(case["position"], len(ranks))
            assert case["rows"] == case["steps"] * BATCH


def test_save_state_and_load_state_carry_the_positions_of_all_loaders_into_new_ones(ranks):
    world = len(ranks)
    for rank in ranks:
        told = rank["saving"]
        assert sorted(told["all"]) == list(range(101))
        assert len(told["first"]) == 3 * BATCH * world
        assert sorted(told["first"] + told["rest"]) == list(range(101))
        assert told["test_first"] + told["test_rest"] == list(range(96))
        left = [steps_from(3 * BATCH * world, world), steps_from(2 * BATCH * world, world, 96)]
        assert told["left"] == left
        assert sorted(told["next"]) == list(range(101))
        assert told["next"] != told["all"]
        assert told["epochs"] == [3, 1]


def test_gradients_are_applied_every_third_batch_and_at_the_last_of_a_pass(ranks):
    world = len(ranks)
    for rank in ranks:
        for case, position in zip(rank["accumulating"], (0, 0, 37, 37, 90, 90), strict=True):
            steps = steps_from(position, world)
            assert case["steps"] == steps
            assert case["ends"] == [False] * (steps - 1) + [True]
            assert case["synced"] == [step % 3 == 0 or step == steps for step in range(1, steps + 1)]
            whole = list(range(96)) if case["inside"] and steps > 1 else []
            assert case["validated"] == whole


def test_a_pass_broken_off_is_followed_by_a_whole_one_beside_other_loaders(ranks):
    world = len(ranks)
    for rank in ranks:
        told = rank["breaking"]
        assert len(told["first"]) == 2 * BATCH * world
        assert sorted(told["whole"]) == list(range(101))
        assert told["pairs"] == steps_from(0, world, 96)
        assert told["both"] == [BATCH] * told["pairs"]
        assert told["after"] == list(range(96))


def test_a_plain_dataloader_is_refused_with_any_workers_and_the_loader_to_make_is_named(ranks):
    for rank in ranks:
        assert len(rank["outside"]) == 3
        for told in rank["outside"]:
            assert "Labels is iterated outside its loader" in told
            assert "get_dataset" in told


def test_skipped_batches_are_neither_read_nor_fetched(project):
    publish_samples(project, "n101", 101, per_chunk=10, size=3)
    accelerator = Accelerator(cpu=True)
    for workers in (0, 2):
        loader = accelerator.prepare(make("n101", BATCH, workers))
        opened, sliced = source_of(loader.dataset._chunk).open(), []
        loader.on_report = lambda report, sliced=sliced: sliced.append(report.sliced)
        labels = labels_of(list(loader.skip_batches(12)))
        assert labels == [*range(60, 101), *range(4)]
        assert sum(sliced) == 45
        held = [number for number, chunk in enumerate(opened.manifest.chunks) if opened.cache.holds(chunk)]
        assert held == [0, 6, 7, 8, 9, 10]  # 0 for the padding


def test_accelerate_s_own_skipping_is_refused_with_the_name_of_ours(project):
    publish_samples(project, "n101", 101, per_chunk=10, size=3)
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(make("n101", BATCH))
    for skip in (skip_first_batches, accelerator.skip_first_batches):
        with pytest.raises(UsageError, match="skip_batches"):
            list(skip(loader, 2))
