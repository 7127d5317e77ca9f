"""Laws of tables: what is written is a safetensors file, byte for byte one, and nothing else is read."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchkit.errors import FormatError
from benchkit.format import tables
from benchkit.format.tables import decode_table, encode_table

ARRAYS = {
    "b": np.array([1, 2, 3], dtype="<u4"),
    "a": np.array([], dtype="<u8"),
    "c": np.array([2**64 - 1], dtype="<u8"),
    "d": np.array([7], dtype="|u1"),
}
TABLE = encode_table(ARRAYS, {"x": [1]})
COLUMNS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "__metadata__"),
    st.sampled_from(["u1", "<u4", "<u8"]).flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 9))),
    max_size=5,
)


def read(data, max_depth=64):
    return decode_table(data, what="it", max_depth=max_depth)


def with_header(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def header(metadata='{"benchkit":"1"}', **entries: str) -> bytes:
    fields = [f'"__metadata__":{metadata}', *(f'"{name}":{entry}' for name, entry in entries.items())]
    return ("{" + ",".join(fields) + "}").encode()


def entry(dtype='"U8"', shape="[1]", offsets="[0,1]", more="") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


@settings(max_examples=200)
@given(COLUMNS, st.recursive(st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_table_comes_back(arrays, metadata):
    result, value = read(encode_table(arrays, metadata))
    assert value == metadata
    assert set(result) == set(arrays)
    for name, array in arrays.items():
        assert result[name].dtype == array.dtype
        assert result[name].tolist() == array.tolist()
        assert not result[name].flags.writeable


def test_a_table_of_known_bytes():
    text = (
        b'{"__metadata__":{"benchkit":"{\\"x\\":[1]}"},'
        b'"a":{"data_offsets":[0,0],"dtype":"U64","shape":[0]},'
        b'"b":{"data_offsets":[8,20],"dtype":"U32","shape":[3]},'
        b'"c":{"data_offsets":[0,8],"dtype":"U64","shape":[1]},'
        b'"d":{"data_offsets":[20,21],"dtype":"U8","shape":[1]}}'
    )
    text += b" " * (-len(text) % 8)
    body = b"\xff" * 8 + b"\1\0\0\0\2\0\0\0\3\0\0\0" + b"\7"
    assert with_header(text, body) == TABLE


def test_the_library_reads_what_is_written(tmp_path):
    arrays = safetensors.numpy.load(TABLE)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    (tmp_path / "table").write_bytes(TABLE)
    with safetensors.safe_open(tmp_path / "table", "numpy") as file:
        assert file.metadata() == {"benchkit": '{"x":[1]}'}


def test_every_array_is_aligned():
    result, _ = read(TABLE)
    base = np.frombuffer(TABLE, dtype=np.uint8).ctypes.data
    for array in result.values():
        assert (array.ctypes.data - base) % array.itemsize == 0


def test_a_header_that_no_reader_takes_is_not_written():
    with pytest.raises(ValueError, match="at most 67108864 are read"):
        encode_table({}, "x" * tables.MAX_HEADER_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(8),
        b"\xff" * 8,
        TABLE[:-1],
        TABLE + b"\0",
        with_header(b"[]"),
        with_header(b"1"),
        with_header(b'"text"'),
        with_header(b"{}"),
        with_header(b'{"__metadata__":{}}'),
        with_header(b'{"__metadata__":null}'),
        with_header(b'{"__metadata__":{"other":"1"}}'),
        with_header(header('{"benchkit":"1","more":"2"}')),
        with_header(header('{"benchkit":1}')),
        with_header(header('{"benchkit":"["}')),
        with_header(header('{"benchkit":"[[1]]"}')),
        with_header(header(), b"\0"),
        with_header(header(x="null"), b"\0"),
        with_header(header(x="[]"), b"\0"),
        with_header(header(x="{}"), b"\0"),
        with_header(header(x=entry(dtype='"F32"', offsets="[0,4]")), bytes(4)),
        with_header(header(x=entry(dtype="[]")), b"\0"),
        with_header(header(x=entry(more=',"more":1')), b"\0"),
        with_header(header(x=entry(shape="[]")), b"\0"),
        with_header(header(x=entry(shape="[1,1]")), b"\0"),
        with_header(header(x=entry(shape="[1.0]")), b"\0"),
        with_header(header(x=entry(shape="[true]")), b"\0"),
        with_header(header(x=entry(shape="[-1]")), b"\0"),
        with_header(header(x=entry(shape="1")), b"\0"),
        with_header(header(x=entry(shape='["1"]')), b"\0"),
        with_header(header(x=entry(shape=f"[{10**40}]", offsets=f"[0,{10**40}]")), b"\0"),
        with_header(header(x=entry(shape=f"[0,{10**40}]", offsets="[0,0]")), b""),
        with_header(header(x=entry(offsets="[1,2]")), bytes(2)),
        with_header(header(x=entry(offsets="[0,2]")), bytes(2)),
        with_header(header(x=entry(offsets="[-1,0]")), bytes(1)),
        with_header(header(x=entry(offsets="[0]")), bytes(1)),
        with_header(header(x=entry(offsets='{"0":1}')), bytes(1)),
        with_header(header(x=entry(), y=entry()), bytes(1)),
        with_header(header(x=entry(), y=entry(offsets="[2,3]")), bytes(3)),
        with_header(header(y=entry(), x=entry(offsets="[1,2]")), bytes(2)),
    ],
    ids=lambda data: repr(data[8:100]),
)
def test_other_bytes_are_refused(data):
    with pytest.raises(FormatError):
        read(data, max_depth=1)


def test_the_header_may_not_claim_more_than_there_is():
    for length in (len(TABLE) - 7, 1 << 40, 1 << 63):
        with pytest.raises(FormatError, match="is no safetensors file"):
            read(length.to_bytes(8, "little") + TABLE[8:])


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TABLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_refused_or_another_table(changes):
    tampered = bytearray(TABLE)
    for offset, byte in changes:
        tampered[offset] = byte
    try:
        arrays, metadata = read(bytes(tampered))
    except FormatError:
        return
    json.dumps(metadata)
    assert sum(array.nbytes for array in arrays.values()) <= len(TABLE)
