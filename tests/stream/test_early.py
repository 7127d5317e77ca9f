"""Early rows: a first batch comes before any chunk has, right in every byte, or from the chunk as ever."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from support.making import content, publish_samples
from support.reading import Numbers, labels_of, make, open_reader

from benchkit.errors import CorruptError
from benchkit.store.local import LocalStore
from benchkit.stream.early import SHARE, choose_early, read_early

PER_CHUNK = 40


@pytest.fixture(params=["none", "zstd"])
def codec(request):
    return request.param


@pytest.fixture
def reader(project, codec):
    """A reader of 160 samples in four chunks, whose store notes which chunks are fetched."""
    return open_reader(project, codec, per_chunk=PER_CHUNK)


def contents(batches):
    return [(label, files[0].name, files[0].read()) for samples in batches for label, files in samples]


def expected(*labels):
    return [(label, f"f{label}.bin", content(label, 5000)) for label in labels]


CHUNKS, ROWS = [2, 0, 2, 3, 3, 3], [7, 39, 1, 5, 6, 0]
LABELS = [87, 39, 81, 125, 126, 120]


@pytest.mark.parametrize("early", [False, True])
def test_the_samples_are_the_same_and_no_chunk_is_fetched_for_them(reader, codec, early):
    assert contents(reader.read(CHUNKS, ROWS, early=early)) == expected(*LABELS)
    fetched = len(reader._store.fetches())
    assert fetched == (0 if early and codec == "none" else 3)
    assert reader.rows_read == 6
    assert contents(reader.read(CHUNKS, ROWS)) == expected(*LABELS)
    assert len(reader._store.fetches()) == 3


def test_rows_that_died_are_not_counted(project):
    reader = open_reader(project, "none", per_chunk=PER_CHUNK)
    entry = reader._manifest.chunks[1]
    alive = [row for row in range(PER_CHUNK) if row not in (0, 3)]
    dead = bytearray(-(-PER_CHUNK // 8))
    for row in (0, 3):
        dead[row // 8] |= 1 << row % 8
    object.__setattr__(entry, "dead", bytes(dead))
    for early in (True, False):
        found = contents(reader.read([1, 1, 1], [0, 1, 2], early=early))
        assert found == expected(*(PER_CHUNK + row for row in alive[:3]))
    assert len(reader._store.fetches()) == 1


def test_what_is_in_the_cache_or_much_of_its_chunk_is_read_from_the_chunk(project):
    reader = open_reader(project, "none", per_chunk=PER_CHUNK)
    most = PER_CHUNK // SHARE
    assert contents(reader.read([1] * most, range(most), early=True)) == expected(*range(40, 40 + most))
    assert not reader._store.fetches()
    more = contents(reader.read([1] * (most + 1), range(most + 1), early=True))
    assert more == expected(*range(40, 41 + most))
    assert len(reader._store.fetches()) == 1
    reader.let_go()
    size = reader._manifest.chunks[1].tar_bytes
    (project / "store" / reader._manifest.chunk_object(reader._manifest.chunks[1])).write_bytes(bytes(size))
    assert contents(reader.read([1], [3], early=True)) == expected(43)
    assert len(reader._store.fetches()) == 1


def test_a_batch_of_very_large_samples_is_not_held_in_memory(project, monkeypatch):
    reader = open_reader(project, "none", per_chunk=PER_CHUNK)
    chunks = reader._manifest.chunks
    size = 2 * chunks[0].tar_bytes // PER_CHUNK
    monkeypatch.setattr("benchkit.stream.early.MOST_BYTES", 2 * size + 10)
    visits = [(chunk, [0, 1]) for chunk in range(4)]
    assert choose_early(visits, chunks) == visits[:2]
    assert choose_early(visits[1::2], chunks) == visits[1::2]


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
@pytest.mark.parametrize("where", ["member", "index"])
def test_damage_is_told_by_the_fetch_and_mended_bytes_are_taken(project, damage, where):
    reader = open_reader(project, "none", per_chunk=PER_CHUNK)
    entry = reader._manifest.chunks[0]
    path = project / "store" / reader._manifest.chunk_object(entry)
    right = path.read_bytes()
    at = right.index(content(3, 5000)) if where == "member" else entry.index.tar_offset + 100
    path.chmod(0o600)
    if damage == "missing":
        path.unlink()
    else:
        flipped = right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]
        path.write_bytes(flipped if damage == "flip" else right[:at])
    with pytest.raises(CorruptError, match=r"is corrupt \(|is missing from"):
        list(reader.read([0], [3], early=True))
    assert contents(reader.read([2], [3], early=True)) == expected(83)
    path.write_bytes(right)
    assert contents(reader.read([0], [3], early=True)) == expected(3)


@pytest.mark.parametrize("when", ["opening", "reading"])
def test_an_error_in_one_of_its_threads_that_is_no_fault_of_the_store_is_raised(when):
    def fail():
        raise ZeroDivisionError

    def open_rows(chunk, rows):
        return fail() if when == "opening" else [fail]

    with pytest.raises(ZeroDivisionError):
        read_early([(number, [0]) for number in range(40)], open_rows)


def test_the_rows_of_all_chunks_are_read_at_once_and_come_in_their_order():
    all_are_read = threading.Barrier(6, timeout=20)

    def read(chunk, row):
        all_are_read.wait()
        if chunk == 1 and row == 5:
            raise CorruptError("this one")
        return [(10 * chunk + row, None)]

    visits = [(0, [7, 2, 3]), (1, [4, 5]), (2, [9])]
    found = read_early(visits, lambda chunk, rows: [partial(read, chunk, row) for row in rows])
    assert found == [[(7, None), (2, None), (3, None)], None, [(29, None)]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 5])
def test_only_the_first_batch_of_a_pass_is_read_early(project, workers, start, monkeypatch):
    publish_samples(project, "numbers", 4000, per_chunk=500, codec="none")
    monkeypatch.setattr("benchkit.stream.lookahead.Lookahead.start", lambda self: None)
    for shuffle in (False, True):
        loader = make("numbers", 8, workers, Numbers, shuffle=shuffle, open_chunks=4, seed=3)
        loader.skip_batches(start)
        batches = list(loader)
        whole = make("numbers", 8, 0, Numbers, shuffle=shuffle, open_chunks=4, seed=3)
        undisturbed = list(whole)[start:]
        assert labels_of(batches) == labels_of(undisturbed)
        assert all((a[1] == b[1]).all() for a, b in zip(batches, undisturbed, strict=True))
    plans = map(loader._course(0, 0).plan, range(4))
    assert [plan.early for plan in plans] == [True, False, False, False]


def test_a_slow_store_that_moves_is_no_stall(project, monkeypatch):
    class Slow(LocalStore):
        def stream(self, name, **part):
            for block in super().stream(name, **part):
                for start in range(0, len(block), 1000):
                    time.sleep(0.2)
                    yield block[start : start + 1000]

    reader = open_reader(project, "none", per_chunk=PER_CHUNK)
    reader._store = Slow(reader._store._inner.root)
    reader.timeout_seconds = 0.5
    assert contents(reader.read([2], [7], early=True)) == expected(87)


def test_the_first_batch_comes_while_no_chunk_can_be_fetched(project, monkeypatch):
    publish_samples(project, "numbers", 4000, per_chunk=500, codec="none")
    asked = []

    def refuse(*_arguments, **_options):
        asked.append(1)
        raise CorruptError("no chunk today")

    monkeypatch.setattr("benchkit.stream.cache.fetch_tar", refuse)
    batches = iter(make("numbers", 8, 0, Numbers, shuffle=True, open_chunks=4))
    assert len(next(batches)[0]) == 8
    with pytest.raises(CorruptError, match="no chunk today"):
        next(batches)
    assert asked
