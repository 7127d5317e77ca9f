"""Chunks that lie in the cache and not in memory: read whole, in the background, where rows are shuffled."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support.disk import bytes_from_disk, forget, tells_of_disk
from support.making import publish_samples
from support.reading import Numbers, make, open_reader

from benchkit.stream import read_ahead
from benchkit.stream.chunks import source_of
from benchkit.stream.read_ahead import ReadAhead

SECONDS = 20
pytestmark = tells_of_disk


def forget_all(tars):
    """Have the kernel forget what is in open tars; a test is skipped where it does not."""
    for tar in tars:
        for _ in range(20):  # a page that is being read is not forgotten
            forget(tar.path)
            if not read_ahead._is_in_memory(tar):
                break
        else:
            pytest.skip("this file system keeps everything in memory")


def await_end():
    """Wait until no thread reads ahead."""
    for thread in threading.enumerate():
        if thread.name == "benchkit-read-ahead":
            thread.join(SECONDS)
            assert not thread.is_alive()


def test_the_second_batch_has_shuffled_chunks_read_whole(project):
    publish_samples(project, "numbers", 160, per_chunk=40, size=200_000, codec="none")
    loader = make("numbers", 4, 0, Numbers, shuffle=True, open_chunks=4)
    list(loader)
    cached = Path(os.environ["BENCHKIT_CACHE_DIR"]).rglob("*")
    tars = [path for path in cached if path.stat().st_size > 1 << 20]
    assert len(tars) == 4
    for path in tars:
        forget(path)
    before = bytes_from_disk()
    batches = iter(loader)
    next(batches)
    next(batches)
    await_end()
    read = bytes_from_disk() - before
    if not read:
        pytest.skip("this file system keeps everything in memory")
    assert read > 0.9 * sum(path.stat().st_size for path in tars)


@pytest.mark.parametrize(("shuffle", "asked"), [(True, 4), (False, 0)])
def test_chunks_are_asked_for_once_a_pass_and_only_shuffled(project, shuffle, asked, monkeypatch):
    publish_samples(project, "numbers", 160, per_chunk=40, codec="none")
    found = []
    monkeypatch.setattr(read_ahead, "_is_in_memory", lambda tar: found.append(tar.path) or True)
    loader = make("numbers", 4, 0, Numbers, shuffle=shuffle, open_chunks=4)
    for passes in (1, 2):
        for number, _ in enumerate(loader):
            if number % 4 == 0:
                source_of(loader.dataset._chunk).open().reader.give_way()
        assert len(found) == passes * asked


@pytest.fixture
def tars(project):
    """Four open tars that are not in memory."""
    reader = open_reader(project, "none", size=50_000)
    opened = [reader.fetch(chunk) for chunk in range(4)]
    forget_all(opened)
    yield opened
    for tar in opened:
        tar.close()


def test_what_has_been_evicted_is_left_out_and_the_next_is_read(tars):
    tars[0].path.unlink()
    before = bytes_from_disk()
    ReadAhead().ask(tars)
    await_end()
    read = bytes_from_disk() - before
    assert 0.9 * sum(tar.size for tar in tars[1:]) < read < sum(tar.size for tar in tars)


def test_what_is_in_memory_or_too_large_is_not_read(tars, monkeypatch):
    for tar in tars[:2]:
        tar.path.read_bytes()
    monkeypatch.setattr(read_ahead, "MOST_BYTES", tars[2].size - 1)
    ahead = ReadAhead()
    ahead.ask(tars)
    assert not ahead._waiting
    assert not ahead._reading


def test_none_is_begun_behind_the_end_and_later_ones_are_once(tars, monkeypatch):
    begun, go_on, send = [], threading.Event(), os.sendfile

    def send_later(*arguments):
        begun.append(arguments)
        assert go_on.wait(SECONDS)
        return send(*arguments)

    monkeypatch.setattr(os, "sendfile", send_later)
    ahead = ReadAhead()
    ahead.ask(tars[:3])
    ahead.stop()
    go_on.set()
    await_end()
    before = len(begun)
    assert before <= 1
    for _ in range(2):
        ahead.ask(tars[3:])
        await_end()
        forget_all(tars[3:])
    assert len(begun) == before + 1
