"""Laws of samples: a member reaches the user whole and checked, or not at all."""

import copy
import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image
from support.making import add_row, member_columns
from support.rows import read_rows

from benchkit.errors import BenchKitError, CorruptError
from benchkit.format.digests import checksum
from benchkit.format.index import IndexBuilder, decode_index
from benchkit.format.labels import encode_label
from benchkit.format.sample import MemberFile, SampleReader


def damaged(chunk, offset):
    """A reader of the chunk's tar in which one bit is flipped."""
    tar = bytearray(chunk.tar)
    tar[offset] ^= 1
    return lambda start, length: bytes(tar[start : start + length])


def index_of(members, names, kind):
    """An index of one sample, whose members are these bytes one after the other."""
    builder, offset = IndexBuilder(), 0
    for data in members:
        builder.add_members(*member_columns((offset, len(data), checksum(data))))
        offset += len(data)
    add_row(builder, b"key", names, len(members), kind)
    body = b"".join(members)
    index = decode_index(builder.encode(), tar_bytes=len(body), samples=1, what="it")
    return index, lambda start, length: body[start : start + length]


def test_a_file_is_a_binary_file_with_its_original_name():
    picture = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(picture, "PNG")
    index, read = index_of([picture.getvalue(), b"0"], ["Größe 1.png".encode()], "cls")
    ((_, (file,)),) = read_rows(index, [0], read, what="it")
    assert isinstance(file, MemberFile)
    assert file.name == "Größe 1.png"
    assert Image.open(file).size == (3, 2)
    assert file.seek(0) == 0
    assert file.read() == picture.getvalue()


def test_a_file_keeps_any_name_and_its_place_when_it_is_pickled():
    index, read = index_of([b"12345", b"0"], [b"not \xff utf-8"], "cls")
    ((_, (file,)),) = read_rows(index, [0], read, what="it")
    assert os.fsencode(file.name) == b"not \xff utf-8"
    file.seek(2)
    again = pickle.loads(pickle.dumps(file))  # noqa: S301
    assert (again.name, again.read()) == (file.name, b"345")
    again.name = "other.bin"
    assert copy.copy(again).name == again.name == "other.bin"
    assert not hasattr(MemberFile(b""), "name")


def test_a_sample_without_files_has_none():
    index, read = index_of([b"5"], [], "cls")
    assert read_rows(index, [0], read, what="it") == [(5, None)]


def test_files_come_in_the_order_they_were_given():
    index, read = index_of([b"first", b"", b"third", b"0"], [b"b", b"a", b"b"], "cls")
    ((_, files),) = read_rows(index, [0], read, what="it")
    assert [(file.name, file.getvalue()) for file in files] == [("b", b"first"), ("a", b""), ("b", b"third")]


def test_a_flipped_bit_in_any_member_is_an_error_and_never_a_value(golden, make_chunk):
    chunk = make_chunk(golden.FIRST[4:] + golden.SECOND[3:5])
    index, hit = chunk.index, 0
    for row in range(index.samples):
        for member in index.members(row):
            size, offset = int(index.member_size[member]), int(index.member_offset[member])
            for place in {offset, offset + size // 2, offset + size - 1} if size else ():
                read = damaged(chunk, place)
                with pytest.raises(CorruptError, match="of chunk 7 is corrupt: its checksum") as info:
                    read_rows(index, range(index.samples), read, what="chunk 7")
                assert f"of sample {index.key(row)!r} of" in str(info.value)
                hit += 1
    assert hit > 30


def test_headers_and_padding_are_no_part_of_a_member(golden, make_chunk):
    chunk = make_chunk(golden.FIRST[:1])
    for place in (0, 148, int(chunk.index.member_offset[0]) + int(chunk.index.member_size[0])):
        assert read_rows(chunk.index, [0], damaged(chunk, place), what="it")[0][0] == golden.FIRST[0].label


def test_a_short_read_is_an_error(golden, make_chunk):
    chunk = make_chunk(golden.FIRST[:1])
    with pytest.raises(CorruptError, match=r"of sample 'cats/one\.JPEG' of it is corrupt"):
        read_rows(chunk.index, [0], lambda start, length: chunk.tar[start : start + length - 1], what="it")


def test_rows_come_in_the_order_asked_for_however_they_lie(golden, make_chunk, assert_same):
    chunk = make_chunk(golden.FIRST + golden.SECOND)
    count = chunk.index.samples
    every = read_rows(chunk.index, range(count), chunk.read, what="it")
    for rows in ([*range(count)][::-1], [3, 4, 5, 0, 1, 3], [], [count - 1]):
        found = read_rows(chunk.index, rows, chunk.read, what="it")
        assert len(found) == len(rows)
        for row, (label, files) in zip(rows, found, strict=True):
            assert_same(every[row][0], label)
            assert [file.getvalue() for file in files or []] == [
                file.getvalue() for file in every[row][1] or []
            ]


def test_members_that_lie_apart_are_read_without_what_is_between():
    builder, body = IndexBuilder(), bytes(1 << 20) + b"5"
    builder.add_members(*member_columns((len(body) - 1, 1, checksum(b"5"))))
    add_row(builder, b"one", [], 1, "cls")
    builder.add_members(*member_columns((0, 3, checksum(bytes(3)))))
    add_row(builder, b"two", [], 1, "json")
    index = decode_index(builder.encode(), tar_bytes=len(body), samples=2, what="it")
    lengths = []

    def read(start, length):
        lengths.append(length)
        return body[start : start + length]

    with pytest.raises(BenchKitError, match="sample 'two' of it is no JSON"):
        read_rows(index, [0, 1], read, what="it")
    assert lengths == [1, 3]


def test_a_reader_holds_little_of_the_index_and_calls_rows_by_their_numbers(golden, make_chunk):
    chunk = make_chunk(golden.FIRST)
    reader = SampleReader(chunk.index, damaged(chunk, int(chunk.index.member_offset[0])), what="chunk 7")
    held = [value for value in vars(reader).values() if isinstance(value, memoryview)]
    for name in ("member_offset", "member_size", "member_checksum", "sample_member", "sample_file", "kind"):
        column = getattr(chunk.index, name)
        assert any(values.tolist() == column.tolist() for values in held)
        assert not any(np.shares_memory(np.asarray(values), column) for values in held)
    assert all(
        values.itemsize <= 2 for values in held if values.tolist() != chunk.index.member_checksum.tolist()
    )
    with pytest.raises(CorruptError, match="of row 0 of chunk 7 is corrupt"):
        reader.read([0])


LABEL = encode_label([np.zeros(2), np.ones(2)])


@pytest.mark.parametrize(
    ("members", "kind", "message"),
    [
        ([*LABEL.parts[:2]], LABEL.kind, "sample 'key' of it has fewer arrays than its kind says"),
        (
            [*LABEL.parts, b"x"],
            LABEL.kind,
            "sample 'key' of it has more arrays than its kind says",
        ),
        ([b"5", b"x"], "cls", "more arrays"),
        ([b"five"], "cls", "the label of sample 'key' of it has 'five' where its kind says int"),
        ([b"{"], "json", "sample 'key' of it is no JSON"),
        ([LABEL.parts[0], b"x", b"y"], LABEL.kind, "sample 'key' of it is no array"),
    ],
)
def test_members_that_do_not_make_a_label_are_an_error_that_names_the_sample(members, kind, message):
    index, read = index_of(members, [], kind)
    with pytest.raises(BenchKitError, match=message) as info:
        read_rows(index, [0], read, what="it")
    assert info.value.exit_code == 7
