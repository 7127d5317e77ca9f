"""The law of a pass: every sample once, equal steps on all ranks, padding last and counted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.making import make_project, publish_samples

from benchkit import IterableChunk, LoaderOptions, Shard, get_dataset

TOTALS = (1, 5, 100, 203, 1001)
CHUNK_SAMPLES = (3, 40, 500)


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


@pytest.fixture(scope="module")
def current_project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passes")
    project = make_project(folder / "project")
    for total in TOTALS:
        for per_chunk in CHUNK_SAMPLES:
            publish_samples(project, f"n{total}-{per_chunk}", total, per_chunk=per_chunk, size=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHKIT_PROJECT", str(project))
        patch.setenv("BENCHKIT_CACHE_DIR", str(folder / "cache"))
        yield project


def check_pass(
    total: int, per_chunk: int, *, world: int, batch: int, lanes: int, shuffle: bool, skip: int, workers: int
) -> None:
    ranks = []
    for index in range(world):
        options = LoaderOptions(shard=Shard(index=index, count=world))
        loader = get_dataset(
            Labels,
            True,
            f"n{total}-{per_chunk}",
            batch,
            workers,
            shuffle=shuffle,
            open_chunks=lanes,
            loader=options,
        )
        ranks.append((loader, list(loader.skip_batches(skip))))
    left = max(total - skip * world * batch, 0)
    steps = -(-left // (world * batch))
    assert [len(batches) for _, batches in ranks] == [steps] * world
    assert all(loader.remainder == left % (world * batch) for loader, _ in ranks)
    gathered = [torch.cat(parts).tolist() for parts in zip(*(batches for _, batches in ranks), strict=True)]
    assert all(len(rows) == world * batch for rows in gathered)
    real = [row for rows in gathered for row in rows][:left]
    assert len(set(real)) == left
    if not skip:
        assert sorted(real) == list(range(total))


@pytest.mark.usefixtures("current_project")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total=st.sampled_from(TOTALS),
    per_chunk=st.sampled_from(CHUNK_SAMPLES),
    world=st.integers(1, 8),
    batch=st.integers(1, 7),
    lanes=st.sampled_from((1, 2, 7, 32, 40)),
    shuffle=st.booleans(),
    skip=st.sampled_from((0, 0, 1, 3)),
)
def test_a_pass_is_exact_for_any_ranks_batches_chunks_and_lanes(**case):
    check_pass(**case, workers=0)


@pytest.mark.usefixtures("current_project")
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total=st.sampled_from(TOTALS[:4]),
    per_chunk=st.sampled_from(CHUNK_SAMPLES),
    world=st.integers(1, 3),
    batch=st.integers(3, 7),
    lanes=st.sampled_from((1, 7, 32)),
    shuffle=st.booleans(),
    workers=st.integers(1, 3),
)
def test_a_pass_is_exact_for_any_number_of_workers(**case):
    check_pass(**case, skip=0)
