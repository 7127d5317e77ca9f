"""The law of cheap states: size, and the work of going on, depend neither on position nor on the dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.making import publish_samples
from support.orders import locate
from support.reading import make

from benchkit.data.catalogue import find_version, publish, read_manifest
from benchkit.store.local import LocalStore
from benchkit.stream.loader import ChunkLoader

PER_CHUNK, BATCH, RANKS = 1000, 5, 2
TOTALS = {"some": 10**3, "many": 10**7}


@pytest.fixture
def datasets(project: Path) -> Path:
    """Return a project with manifests of a thousand and of ten million samples, of no real chunks."""
    for name, total in TOTALS.items():
        version = publish_samples(project, name, PER_CHUNK, per_chunk=PER_CHUNK, size=1)
        store = LocalStore(project / "store")
        manifest = read_manifest(store, version)
        (entry,) = manifest.chunks
        chunks = total // PER_CHUNK
        entries = tuple(
            replace(entry, stored=f"{number:064x}", tar=f"{number + chunks:064x}") for number in range(chunks)
        )
        publish(store, replace(manifest, chunks=entries))
        assert find_version(store, name).number == 2
    return project


def positions(total: int) -> list[int]:
    return [0, BATCH * RANKS, total // 2, total // 2 + 1, total - BATCH * RANKS]


def loader_of(name: str, monkeypatch: pytest.MonkeyPatch, **more: object) -> ChunkLoader:
    """Return the loader of the second of two ranks, whose version has been opened."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", str(RANKS))
    loader = make(name, BATCH, shuffle=True, **more)
    assert len(loader) == -(-TOTALS[name] // (BATCH * RANKS))
    return loader


def go_on(loader: ChunkLoader, state: dict) -> list[tuple[int, int]]:
    """Load a state, and find out which rows of which chunks the first batch reads."""
    loader.load_state_dict(state)
    epoch, position = loader._next_start()
    plan = loader._course(epoch, position).plan(0)
    chunks, rows = locate(loader.opened.order, plan.epoch, plan.positions)
    return list(zip(chunks.tolist(), rows.tolist(), strict=True))


def calls_during(function: Callable[[], object]) -> int:
    """Return how many functions of Python and of C are called while the function runs."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_a_state_is_as_large_for_ten_million_samples_as_for_a_thousand(datasets, monkeypatch):
    keys, sizes = set(), {}
    for name, total in TOTALS.items():
        loader = loader_of(name, monkeypatch)
        for position in positions(total):
            loader.load_state_dict(loader.state_dict() | {"epoch": 3, "position": position})
            state = loader.state_dict()
            assert state["position"] == position
            keys.add(tuple(state))
            sizes[name, position] = len(json.dumps(state)) - len(str(position))
    assert len(keys) == 1
    assert set(sizes.values()) == {min(sizes.values())}
    assert min(sizes.values()) < 300


def test_going_on_is_as_much_work_at_any_position_of_any_dataset(datasets, monkeypatch):
    work = {}
    for name, total in TOTALS.items():
        loader = loader_of(name, monkeypatch, open_chunks=1)
        start = loader.state_dict()
        for position in positions(total):
            state = start | {"epoch": 3, "position": position}
            read = go_on(loader, state)
            assert len(set(read)) == BATCH
            work[name, position] = calls_during(lambda loader=loader, state=state: go_on(loader, state))
    assert set(work.values()) == {min(work.values())}, work
