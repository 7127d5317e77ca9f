"""Laws of pairs: they are read as any samples are, only sooner."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.making import add_row, member_columns
from support.rows import read_rows

from benchkit.errors import BenchKitError, CorruptError
from benchkit.format.digests import checksum
from benchkit.format.index import IndexBuilder, decode_index
from benchkit.format.pairs import PairReader, open_samples
from benchkit.format.sample import NEAR_BYTES, SampleReader

SIZES = (0, 1, 700, NEAR_BYTES, 3 * NEAR_BYTES)


def lay_out(samples, *, gap=b"between", label_first=False):
    """The index and the bytes of samples of a name, a file and a label's text each."""
    builder, body = IndexBuilder(), b""
    for name, data, label in samples:
        places = {}
        for member in (label, data) if label_first else (data, label):
            places[member] = (len(body), len(member), checksum(member))
            body += member + gap
        for member in (data, label):
            builder.add_members(*member_columns(places[member]))
        add_row(builder, name, [name], 2, "cls")
    return decode_index(builder.encode(), tar_bytes=len(body), samples=len(samples), what="it"), body


def slices(body):
    return lambda start, length: body[start : start + length]


def contents(samples):
    return [(label, [(file.name, file.getvalue()) for file in files]) for label, files in samples]


@pytest.fixture
def pairs():
    """The index and the bytes of three samples of a file and a label; the last label is no number."""
    return lay_out([(b"a", b"small", b"5"), (b"b", bytes(NEAR_BYTES * 2), b"-7"), (b"c", b"", b"x")])


def test_samples_of_a_file_and_a_number_come_one_by_one_as_they_come_together(pairs):
    index, body = pairs
    lengths = []

    def read(start, length):
        lengths.append(length)
        return body[start : start + length]

    together = read_rows(index, [0, 1], read, what="it")
    lengths.clear()
    alone = read_rows(index, [1, 0], read, what="it")
    for one, other in zip(together, reversed(alone), strict=True):
        assert one[0] == other[0]
        assert (one[1][0].name, one[1][0].read()) == (other[1][0].name, other[1][0].read())
    assert [label for label, _ in alone] == [-7, 5]
    assert lengths == [2 * NEAR_BYTES, 2, len(b"small" + b"between" + b"5")]
    with pytest.raises(BenchKitError, match="the label of sample 'c' of it has 'x' where its kind says int"):
        read_rows(index, [2], read, what="it")


@pytest.mark.parametrize(
    ("row", "member", "what"), [(0, 0, "file 'a'"), (0, 1, "the label"), (1, 3, "the label")]
)
def test_a_flipped_bit_in_a_sample_that_is_read_alone_is_an_error_that_names_it(pairs, row, member, what):
    index, body = pairs
    tar = bytearray(body)
    tar[int(index.member_offset[member])] ^= 1
    with pytest.raises(CorruptError, match=f"{what} of sample '{'ab'[row]}' of it is corrupt: its checksum"):
        read_rows(index, [row], lambda start, length: bytes(tar[start : start + length]), what="it")


@pytest.fixture
def many():
    """The index and the bytes of 60 pairs of many sizes."""
    numbers = random.Random(5)
    return lay_out(
        [
            (
                f"größe {i}".encode(),
                bytes([i]) * numbers.choice(SIZES if i != 30 else SIZES[1:]),
                b"%d" % (i * i - 9),
            )
            for i in range(60)
        ]
    )


ROWS = [
    [],
    [7],
    range(60),
    range(20, 23),
    [*range(60)][::-1],
    [3, 4, 5, 0, 1, 3],
    [0, 1, 3, 4, 5, 8],
    [59, 2, 31],
]


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("near_bytes", [0, 600, NEAR_BYTES, 1 << 20])
def test_any_rows_are_those_that_a_reader_of_any_samples_gives(many, rows, near_bytes):
    index, body = many
    reader = open_samples(index, slices(body), what="it", near_bytes=near_bytes)
    other = SampleReader(index, slices(body), what="it", near_bytes=near_bytes)
    assert isinstance(reader, PairReader)
    found = contents(reader.read(rows))
    assert found == contents(other.read(rows))
    assert [label for label, _ in found] == [row * row - 9 for row in rows]


@pytest.mark.parametrize("rows", [range(60), [30], [30, 2], [29, 30, 31]], ids=str)
@pytest.mark.parametrize("member", [0, 1])
def test_a_flipped_bit_is_told_of_its_row_however_that_is_read(many, rows, member):
    index, body = many
    damaged = bytearray(body)
    damaged[int(index.member_offset[60 + member])] ^= 1
    what = ["file 'größe 30'", "the label"][member]
    for kind in (open_samples, SampleReader):
        with pytest.raises(CorruptError, match=f"^{what} of row 30 of it is corrupt"):
            kind(index, slices(bytes(damaged)), what="it").read(rows)


def test_pairs_in_another_layout_are_read_as_any_samples():
    samples = [(b"a", b"first", b"1"), (b"b", b"second", b"2")]
    index, body = lay_out(samples, label_first=True)
    reader = open_samples(index, slices(body), what="it")
    assert not isinstance(reader, PairReader)
    assert contents(reader.read([1, 0])) == [(2, [("b", b"second")]), (1, [("a", b"first")])]


def test_little_is_held_of_a_pair(many):
    index, body = many
    held = vars(open_samples(index, slices(body), what="it")).values()
    assert sum(len(value) for value in held if isinstance(value, bytes)) <= 40 * 60 + len(index.names)


def test_a_chunk_without_samples_has_none_to_read():
    one, _ = lay_out([(b"a", b"small", b"5")])
    empty = replace(
        one,
        **{name: getattr(one, name)[:0] for name in ("member_offset", "member_size", "member_checksum")},
        **{name: getattr(one, name)[:1] for name in ("sample_member", "sample_file")},
        **{name: getattr(one, name)[:0] for name in ("kind", "key_end", "name_end", "keys", "names")},
    )
    assert open_samples(empty, slices(b""), what="it").read([]) == []
