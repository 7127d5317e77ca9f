"""Laws of a chunk reader: rows come in the order asked for, few at a time, right or as an error."""

from __future__ import annotations

import pytest
from support.making import content
from support.reading import open_reader

from benchkit.errors import CorruptError
from benchkit.format.index import decode_index

PER_CHUNK, SIZE = 10, 5000
CHUNKS, ROWS = [2, 2, 0, 3, 3, 3, 2], [7, 1, 9, 5, 6, 0, 0]
LABELS = [27, 21, 9, 35, 36, 30, 20]


@pytest.fixture
def reader(project):
    """A reader of 40 samples in four chunks, whose store notes which chunks are fetched."""
    return open_reader(project, "none", 40, per_chunk=PER_CHUNK)


def damage(reader, label):
    """Flip a bit of a sample in the cached tar of its chunk."""
    with reader.fetch(label // PER_CHUNK) as tar:
        data = bytearray(tar.path.read_bytes())
        data[data.index(content(label, SIZE)) + SIZE - 1] ^= 1
        tar.path.chmod(0o600)
        tar.path.write_bytes(data)


def labels(samples):
    for label, (file,) in samples:
        assert file.read() == content(label, SIZE)
    return [label for label, _ in samples]


def test_small_samples_are_read_together_and_come_in_order(reader):
    assert [labels(samples) for samples in reader.read(CHUNKS, ROWS)] == [LABELS]
    assert reader.rows_read == len(LABELS)


@pytest.mark.parametrize(
    ("rows_at_once", "expected"),
    [
        (1, [[label] for label in LABELS]),
        (3, [LABELS[:3], LABELS[3:6], LABELS[6:]]),
        (4, [LABELS[:4], LABELS[4:]]),
    ],
)
def test_no_more_is_read_at_once_than_is_to_be(reader, monkeypatch, rows_at_once, expected):
    entry = reader._manifest.chunks[0]
    monkeypatch.setattr("benchkit.stream.reader.AT_ONCE_BYTES", rows_at_once * entry.tar_bytes // PER_CHUNK)
    found, rows = [], []
    for samples in reader.read(CHUNKS, ROWS):
        found.append(labels(samples))
        rows.append(reader.rows_read)
    assert found == expected
    assert rows == [sum(map(len, expected[: n + 1])) for n in range(len(expected))]


def test_a_chunk_that_is_found_bad_is_fetched_again_and_its_rows_come_in_their_place(reader):
    assert labels(next(reader.read(CHUNKS, ROWS))) == LABELS
    reader.let_go()
    damage(reader, 35)
    assert [labels(samples) for samples in reader.read(CHUNKS, ROWS)] == [LABELS]
    assert len(reader._store.fetches()) == 4
    damage(reader, 30)
    with pytest.raises(CorruptError, match=r"of row 0 of chunk .* is corrupt: .*fetched again once"):
        list(reader.read(CHUNKS, ROWS))
    assert labels(next(reader.read(CHUNKS[:3], ROWS[:3]))) == LABELS[:3]


@pytest.mark.parametrize(("remembered", "indices"), [(4, 4), (2, 8)])
def test_the_index_of_a_chunk_that_is_opened_again_is_not_read_again_as_long_as_it_is_remembered(
    reader, monkeypatch, remembered, indices
):
    decoded = []

    def decode(data, **what):
        decoded.append(what)
        return decode_index(data, **what)

    size = reader._index_bytes(0)
    monkeypatch.setattr("benchkit.stream.reader._INDEX_BYTES", remembered * size + size // 2)
    monkeypatch.setattr("benchkit.stream.reader.decode_index", decode)
    reader.keep = 1
    for _ in range(2):
        assert [labels(samples) for samples in reader.read([0, 1, 2, 3], [1] * 4)] == [[1, 11, 21, 31]]
        assert len(reader._opened) == 1
    assert len(decoded) == indices
    assert len(reader._known) == remembered
    assert reader._known_bytes == sum(map(reader._index_bytes, reader._known))


def test_reading_that_is_broken_off_leaves_nothing_open_once_it_is_let_go(reader):
    reading = reader.read(CHUNKS, ROWS)
    next(reading)
    reading.close()
    tars = [opened.tar for opened in reader._opened.values()]
    assert len(tars) == 3
    reader.let_go()
    assert all(tar.closed for tar in tars)
