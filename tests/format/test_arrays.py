"""Laws of arrays: NumPy's own bytes, the same dtype and values back, and nothing hostile gets in."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchkit.errors import FormatError
from benchkit.format import arrays
from benchkit.format.arrays import decode_array, encode_array

DTYPES = [
    *(
        "?",
        "i1",
        "<i2",
        "<i4",
        "<i8",
        "u1",
        "<u2",
        "<u4",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
        "<c8",
        "<c16",
        "g",
        "G",
    ),
    *(">i2", ">u8", ">f4", ">c16", ">U3", "S5", "U4", "S0", "U0", "V0", "V7"),
    *("m8", "M8[ns]", "m8[25s]", ">M8[D]"),
    [("x", "u1"), ("y", "<f4", (2, 3))],
    [("x", [("y", "<c8"), ("z", "V3")]), ("t", "S2")],
    [(("title", "name"), "<i4")],
    [("ü 日本 '\"\\\n", "<i4")],
    [],
    np.dtype([("a", "u1"), ("b", "<i4"), ("c", "g")], align=True),
]
SHAPES = [(), (0,), (1,), (3,), (2, 0, 3), (2, 3)]
SIMPLE = np.arange(6, dtype="<f4").reshape(2, 3)


def filled(dtype, shape):
    """An array whose items are anything that is not zero, where the dtype has such."""
    array = np.zeros(shape, dtype)
    if array.nbytes and array.dtype.kind != "V":
        array[...] = np.arange(array.size).reshape(shape).astype(array.dtype)
    elif array.nbytes and array.dtype.names is None:
        array[...] = np.void(b"\x01" * array.dtype.itemsize)
    elif array.nbytes:
        for name in array.dtype.names:
            array[name] = filled(array.dtype[name].base, array[name].shape)
    return array


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_array_comes_back_with_dtype_shape_and_values(dtype, shape, assert_same):
    array = filled(np.dtype(dtype), shape)
    result = decode_array(encode_array(array), what="it")
    assert_same(array, result)
    assert result.flags.writeable
    assert result.flags.c_contiguous
    assert result.flags.owndata


@settings(max_examples=300)
@given(
    hnp.arrays(
        dtype=hnp.scalar_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes(),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_any_array_comes_back(array):
    result = decode_array(encode_array(array), what="it")
    assert (result.dtype, result.shape, result.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("dtype", [d for d in DTYPES if "日" not in str(d)], ids=str)
def test_the_bytes_are_those_that_numpy_writes_and_reads(dtype):
    array = filled(np.dtype(dtype), (2, 3))
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    data = encode_array(array)
    padded = np.dtype(dtype).type in (np.longdouble, np.clongdouble) or np.dtype(dtype).isalignedstruct
    header = len(data) - array.nbytes
    assert data[:header] == stream.getvalue()[:header]
    assert data == stream.getvalue() or padded  # what NumPy writes between the values is chance
    assert np.load(io.BytesIO(data)).dtype == array.dtype


def test_numpy_reads_field_names_beyond_ascii():
    array = filled(np.dtype([("ü 日本", "<i4")]), (2,))
    assert np.load(io.BytesIO(encode_array(array))).dtype == array.dtype


@pytest.mark.parametrize(
    "view", [SIMPLE.T, SIMPLE[:, ::-1], SIMPLE[::2], np.asfortranarray(SIMPLE)], ids=range(4)
)
def test_memory_order_does_not_matter(view):
    assert encode_array(view) == encode_array(np.ascontiguousarray(view))


def test_a_header_of_known_bytes():
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".ljust(117) + b"\n"
    assert encode_array(SIMPLE) == b"\x93NUMPY\x01\x00\x76\x00" + text + SIMPLE.tobytes()


@pytest.mark.parametrize(
    "dtype",
    [
        "g",
        "G",
        ">g",
        np.dtype([("a", "u1"), ("b", "<i4")], align=True),
        np.dtype([("a", "u1"), ("b", [("c", "g", (2,)), ("d", "u1")])], align=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_padding_inside_items_does_not_reach_the_bytes(dtype, shape, assert_same):
    encodings = set()
    for fill in (0, 0xA5):
        memory = np.full(4 * np.dtype(dtype).itemsize, fill, dtype=np.uint8)
        array = np.ndarray(shape, dtype, buffer=memory.data)
        source = filled(np.dtype(dtype), shape)
        _assign(array, source)
        encodings.add(encode_array(array))
        assert_same(source, decode_array(encode_array(array), what="it"))
    assert len(encodings) == 1


def _assign(target, source):
    if source.dtype.names is None:
        target[...] = source * 1  # arithmetic writes the values alone, a copy would take the padding along
    else:
        for name in source.dtype.names:
            _assign(target[name], source[name])


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.array([("a",)], dtype=[("x", "O")]),
        np.rec.array([(1,)], dtype=[("x", "i4")]).view(np.ndarray),
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 2]})),
        np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [4, 0]})),
        np.zeros(1, np.dtype([(f"field {n}", "<i4") for n in range(4000)])),
    ],
    ids=["objects", "objects in fields", "records", "overlapping", "out of order", "4000 fields"],
)
def test_an_array_that_would_not_come_back_is_refused(array):
    with pytest.raises(ValueError, match="dtype"):
        encode_array(array)


def npy(descr: str, shape: str = "(2, 3)", body: bytes = SIMPLE.tobytes(), order: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        encode_array(SIMPLE)[:-1],
        encode_array(SIMPLE) + b"\0",
        encode_array(SIMPLE).replace(b"\x01\x00", b"\x02\x00", 1),
        npy("'<f4'", order="True"),
        npy("'|O'", "(1,)", b"\x80\x04N."),
        npy("[('a', '|O')]", "(1,)", b"\x80\x04N."),
        npy("'<f4'", "(-2, -3)"),
        npy("'<f4'", "(2, 3,)"),
        npy("'<f4'", "(06,)"),
        npy("'<f4'", "(1000000000000,)"),
        npy("'<f4'", f"(0, {10**30})", b""),
        npy("'<f4'", "(0, 4611686018427387904, 4611686018427387904)", b""),
        npy("'<f4'", "(" + "1, " * 70 + "6)"),
        npy("'<f4'", f"({'9' * 5000},)"),
        npy("'=f4'"),
        npy("'f4'"),
        npy("'<f3'"),
        npy("'<f4,<f4'", "(3,)"),
        npy("'a4'"),
        npy("'<M8[quux]'", "(3,)"),
        npy("'|V999999999999'", "(1,)"),
        npy("('<f4', (2,))", "(3,)"),
        npy("('<f4', (99999999999,))", "(0,)", b""),
        npy("[]", "(24,)"),
        npy("[()]", "(1,)"),
        npy("[('a',)]", "(1,)"),
        npy("[('a', '<f4', (6,), 1)]", "(1,)"),
        npy("[(1, '<f4')]", "(6,)"),
        npy("[('a', '<f4'), ('a', '<f4')]", "(3,)"),
        npy("7"),
        npy("(((((1)))))"),
        npy("(" * 60_000),
        npy("[" * 3000 + "]" * 3000),
        npy("-" * 60_000 + "1"),
        npy("__import__('os').system('true')"),
        npy("'\\d'"),
        npy("'\\U99999999'"),
        npy("'<f4' '<f4'"),
        npy("b'<f4'"),
        npy("1 if 1 else 2"),
    ],
    ids=lambda data: repr(data[10:90]),
)
def test_other_bytes_are_refused(data):
    with pytest.raises(FormatError, match="it is no array"):
        decode_array(data, what="it")


TARGETS = [encode_array(filled(np.dtype(dtype), (2, 3))) for dtype in DTYPES]


@settings(max_examples=2000, deadline=None)
@given(
    st.sampled_from(TARGETS),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
)
@example(TARGETS[0], [(8, b"\xff\xff")])
def test_changed_bytes_are_refused_or_another_array(data, changes):
    tampered = bytearray(data)
    for offset, piece in changes:
        tampered[offset : offset + len(piece)] = piece
    try:
        array = decode_array(bytes(tampered), what="it")
    except FormatError:
        return
    assert not array.dtype.hasobject
    assert array.nbytes <= len(tampered)
    array.tobytes()


@pytest.mark.timeout(5)
@pytest.mark.parametrize("dtype", ["V0", "S0", "U0"])
def test_a_header_that_tells_of_very_many_empty_items_takes_no_time(dtype):
    data = arrays._header(np.dtype(dtype), (10**12,))
    assert decode_array(data, what="x").shape == (10**12,)
