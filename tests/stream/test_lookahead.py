"""The look-ahead: chunks come before they are asked for, and are let go behind the pass."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.making import publish_samples
from support.noted_store import NotedStore
from support.reading import wait_for

from benchkit import IterableChunk, get_dataset
from benchkit.stream.chunks import source_of
from benchkit.stream.course import BatchPlan
from benchkit.stream.lookahead import AHEAD_STEPS, Lookahead
from benchkit.stream.patience import start_fetch
from benchkit.stream.workers import take_over


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


@pytest.fixture
def loader(project):
    publish_samples(project, "n", 4 * AHEAD_STEPS, per_chunk=4)
    loader = get_dataset(Labels, True, "n", 2, 0)
    loader.opened.cache.check_limit(lanes=1, largest_tar_bytes=1)  # makes the folder, as a pass does first
    return loader


def threads() -> list[str]:
    """Return the names of our threads, but for those that wait for checkpoints, or for what was killed."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("benchkit")]
    return [name for name in names if not name.startswith(("benchkit-upload", "benchkit-ending"))]


def test_the_chunks_of_coming_steps_are_fetched_without_anybody_reading(loader):
    opened = loader.opened
    course = loader._course(0, 0)
    near, far = opened.manifest.chunks[: AHEAD_STEPS // 2], opened.manifest.chunks[AHEAD_STEPS // 2 + 1 :]
    with Lookahead(opened, course.plan, course.steps, 100) as lookahead:
        lookahead.start()
        wait_for(lambda: all(opened.cache.holds(chunk) for chunk in near))
        assert not any(opened.cache.holds(chunk) for chunk in far)
        for _ in range(AHEAD_STEPS):
            lookahead.advance()
        wait_for(lambda: all(opened.cache.holds(chunk) for chunk in far))
        wait_for(lambda: not set(lookahead._held) & set(range(AHEAD_STEPS // 2 - 1)))
    assert not threads()


def test_it_holds_no_more_than_it_may(loader):
    opened = loader.opened
    course = loader._course(0, 0)
    with Lookahead(opened, course.plan, course.steps, 3) as lookahead:
        lookahead.start()
        wait_for(lambda: len(lookahead._held) == 3)
        assert sum(opened.cache.holds(chunk) for chunk in opened.manifest.chunks) == 3


def test_nothing_is_started_when_the_machine_has_it_all_or_there_is_no_room(loader):
    opened, course = loader.opened, loader._course(0, 0)
    with Lookahead(opened, course.plan, course.steps, 0) as lookahead:
        lookahead.start()
        assert not threads()
    list(loader)
    wait_for(lambda: not threads())  # those of the pass
    with Lookahead(opened, course.plan, course.steps, 100) as lookahead:
        lookahead.start()
        assert not threads()


def test_a_chunk_that_is_needed_again_while_it_is_being_fetched_is_fetched_once_and_held(loader, project):
    store = NotedStore(project / "store", pause_seconds=0.5)
    opened = loader.opened
    opened.reader._store = store
    (name, *_) = [opened.manifest.chunk_object(chunk) for chunk in opened.manifest.chunks]

    def plan(step: int) -> BatchPlan:
        again = step in (0, AHEAD_STEPS + 1)
        return BatchPlan(epoch=0, start=0, positions=np.array([0 if again else 4]), keep=0, early=False)

    with Lookahead(opened, plan, 2 * AHEAD_STEPS, 100) as lookahead:
        lookahead.start()
        wait_for(lambda: name in store.fetches())
        for _ in range(2):
            lookahead.advance()
        wait_for(lambda: lookahead._planned == AHEAD_STEPS + 2)
        wait_for(lambda: set(lookahead._held) == {0, 1})
        wait_for(lambda: not lookahead._fetching)
    assert store.fetches().count(name) == 1


def test_a_chunk_that_cannot_be_fetched_is_left_to_the_reader(loader, project):
    chunks = sorted((project / "store" / "datasets" / "n" / "chunks").iterdir())
    for chunk in chunks:
        chunk.write_bytes(b"x" * chunk.stat().st_size)
    opened, course = loader.opened, loader._course(0, 0)
    with Lookahead(opened, course.plan, course.steps, 100) as lookahead:
        lookahead.start()
        wait_for(lambda: not lookahead._wanted and not lookahead._fetching)
        lookahead.advance()
        assert not lookahead._held


def test_breaking_off_a_pass_ends_its_threads(loader):
    for _ in loader:
        break
    wait_for(lambda: not threads())
    assert source_of(loader.dataset._chunk).open().reader._opened == {}


@pytest.mark.parametrize("linger", [False, True])
def test_workers_are_forked_once_fetches_that_were_left_behind_have_ended(linger, project, monkeypatch):
    publish_samples(project, "numbers", 8, per_chunk=4)
    there = []
    ending = start_fetch(partial(end_in, 0.6) if linger else partial(time.sleep, 0.6))

    def note(loaded):
        there.append(is_there(ending))
        take_over(loaded)

    monkeypatch.setattr("benchkit.stream.loader.take_over", note)
    assert len(next(iter(get_dataset(Labels, True, "numbers", 4, 2)))) == 4
    assert there == [False]


def test_a_fetch_that_stands_still_keeps_no_workers_from_being_forked(project):
    publish_samples(project, "numbers", 8, per_chunk=4)
    stuck = threading.Event()
    standing = start_fetch(stuck.wait)
    assert len(next(iter(get_dataset(Labels, True, "numbers", 4, 2)))) == 4
    assert is_there(standing)
    stuck.set()
    standing.join()


def test_a_fetch_that_has_ended_leaves_nothing_behind():
    ended = weakref.ref(start_fetch(int))
    wait_for(lambda: ended() is None)


def end_in(seconds):
    """End the thread for Python now, for the system so many seconds later: OpenSSL clears up in between."""
    libc, key = ctypes.CDLL(None), ctypes.c_uint()
    assert libc.pthread_key_create(ctypes.byref(key), ctypes.cast(libc.usleep, ctypes.c_void_p)) == 0
    assert libc.pthread_setspecific(key, ctypes.c_void_p(int(seconds * 1e6))) == 0


def is_there(thread):
    return Path(f"/proc/self/task/{thread.native_id}").exists()
