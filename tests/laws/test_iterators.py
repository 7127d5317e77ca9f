"""The law of iterators that are not one to one: each changes its own batch alone, and that is told."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from laws.iterating import BATCH, CASES, NAME, SKIPPED, copies
from support.making import make_project, publish_samples
from support.processes import torchrun
from support.reading import Labels, make

from benchkit import Shard
from benchkit.errors import DatasetError

TOTAL, PER_CHUNK = 53, 9
Rows = Callable[[list[int]], list[int]]
"""What an iterator makes of the labels of a batch."""


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("iterators")
    project = make_project(folder / "project")
    publish_samples(project, "n53", TOTAL, per_chunk=PER_CHUNK, size=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHKIT_PROJECT", str(project))
        patch.setenv("BENCHKIT_CACHE_DIR", str(folder / "cache"))
        yield project


class Shaped(Labels):
    """Yields a label so many times as a table says, but only of the first samples of a batch."""

    def __init__(self, name: str, cloud: bool, *, copies: list[int], first: int, **more: object) -> None:
        super().__init__(name, cloud, **more)
        self.copies, self.first = copies, first

    def _data_iterator(self):
        for label in itertools.islice(super()._data_iterator(), self.first):
            yield from [label] * self.copies[label % len(self.copies)]

    def rows(self, labels: list[int]) -> list[int]:
        """Return what is made of a batch."""
        return [label for label in labels[: self.first] for _ in range(self.copies[label % len(self.copies)])]


def expected_batches(sources: list[list[int]], rows: Rows) -> list[list[int]]:
    """Return the batches of a whole pass, from the samples of each: the law, written down plainly."""
    made: list[list[int]] = []
    for labels in sources:
        own = rows(labels)
        made.append((own * len(labels))[: len(labels)])
    full = [batch for batch in made if batch]
    expected, neighbour = [], full[0] if full else []
    for batch in made:
        neighbour = batch or neighbour
        expected.append(neighbour)
    return expected


@pytest.mark.usefixtures("projects")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    world=st.integers(1, 3),
    batch=st.integers(1, 6),
    shuffle=st.booleans(),
    copies=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    first=st.sampled_from((1, 3, 99)),
    stop=st.integers(0, 60),
)
@example(world=1, batch=2, shuffle=False, copies=[0, 1], first=99, stop=5)
@example(world=2, batch=1, shuffle=False, copies=[0, 2], first=99, stop=7)
@example(world=1, batch=4, shuffle=False, copies=[*[1] * 12, *[0] * 41], first=99, stop=9)
@example(world=1, batch=4, shuffle=False, copies=[*[0] * 52, 1], first=99, stop=3)
def test_a_batch_is_cut_or_filled_from_its_own_rows_counted_told_and_resumed(
    world, batch, shuffle, copies, first, stop
):
    for index in range(world):
        options = {"shard": Shard(index=index, count=world), "shuffle": shuffle}
        sources = [labels.tolist() for labels in make("n53", batch, **options)]
        shaped = {**options, "chunk": Shaped, "copies": copies, "first": first}
        loader = make("n53", batch, **shaped)
        rows = loader.dataset._chunk.rows
        expected = expected_batches(sources, rows)
        if not any(expected):
            with pytest.raises(DatasetError, match="yielded nothing"):
                list(loader)
            continue
        states = []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            got = []
            for labels in loader:
                got.append(labels.tolist())
                states.append(loader.state_dict())
        assert len(loader) == len(sources)
        assert got == expected
        made = [len(rows(labels)) for labels in sources]
        assert loader.report.batches == len(sources)
        assert loader.report.samples == min(first, batch) * len(sources)
        assert loader.report.rows == sum(made)
        assert [bool(told)] == [any(number != batch for number in made)]
        stop = stop % len(sources)
        assert states[stop]["position"] == min((stop + 1) * world * batch, TOTAL)
        resumed = make("n53", batch, **shaped)
        resumed.load_state_dict(states[stop])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert [labels.tolist() for labels in resumed] == expected[stop + 1 :]


@pytest.mark.usefixtures("projects")
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_come_and_go_and_no_source_sample_is_lost_or_doubled(workers):
    received: list[int] = []
    state = make("n53", 1, chunk=Trailing, shuffle=True).state_dict()
    while state["position"] < TOTAL:
        world, batch = 1 + state["position"] % 3, 2 + state["position"] % 4
        for index in range(world):
            shard = Shard(index=index, count=world)
            loader = make("n53", batch, workers, Trailing, shuffle=True, shard=shard)
            loader.load_state_dict(state)
            batches = iter(loader)
            labels = next(batches).tolist()
            after = loader.state_dict()
            real = loader.remainder if loader.end_of_dataloader and loader.remainder else world * batch
            received += labels[: max(0, real - index * batch)]
            batches.close()
        state = after
    assert sorted(received) == list(range(TOTAL))


class Trailing(Labels):
    """Yields every label, and at the end of a batch more rows than it has samples."""

    def _data_iterator(self):
        labels = list(super()._data_iterator())
        yield from labels + labels


@pytest.mark.processes
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_gather_stay_in_step_whatever_their_iterators_make(projects, tmp_path, world):
    torchrun(Path(__file__).parent / "iterating.py", world, str(tmp_path), project=projects, timeout=120)
    for rank in range(world):
        told = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(told) == len(CASES)
        sources = [
            labels.tolist()
            for labels in make(NAME, BATCH, shuffle=True, shard=Shard(index=rank, count=world))
        ]
        for name, case in told.items():
            table = name.partition("-")[0]

            def rows(labels, table=table):
                kept = [label for label in labels if table != "skips" or label not in SKIPPED]
                return [label for label in kept for _ in range(copies(table, label))]

            made = [len(rows(labels)) for labels in sources]
            failed = dict.fromkeys(label for labels in sources for label in labels if label in SKIPPED)
            uneven = sum(number != BATCH for number in made)
            assert 0 in made or table != "rare"
            assert case["steps"] == len(sources)
            assert case["batches"] == expected_batches(sources, rows)
            assert case["resumed"] == case["batches"]
            assert case["report"] == [len(sources), len(sources) * BATCH, sum(made), uneven]
            named = [f"sample '{label}' " for label in failed if table == "skips"]
            assert [text in error for text, error in zip(named, case["errors"], strict=True)] == [True] * len(
                named
            )
            assert len(case["told"]) == bool(uneven)
            assert all(f"{uneven} of {len(sources)} batches" in text for text in case["told"])
