"""Laws of labels: the same value and the same type come back, and a stranger can read the text."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchkit.errors import FormatError, LabelTypeError
from benchkit.format.arrays import encode_array
from benchkit.format.kinds import TEXT_SCALARS, check_kind
from benchkit.format.labels import encode_label
from benchkit.format.tensors import TENSOR_DTYPES

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support")

HUGE = 10**4300 - 1
FLOATS = [0.0, -0.0, 0.1, 1e16, 5e-324, sys.float_info.max, math.nan, math.inf, -math.inf]
TEXTS = ["", "Größe", "\x00\x1f\x7f\x85\u2028", "🙂\U0010ffff", '"\\/', "a\x00", "NaN"]
PLAIN = [None, True, False, 0, -1, 2**63, -(2**64), HUGE, -HUGE, *FLOATS, *TEXTS]
SCALARS = [
    *(np.dtype(name).type(1) for name in TEXT_SCALARS if name not in ("str", "bytes")),
    *(
        kind(value)
        for kind in (np.float16, np.float32, np.float64)
        for value in (-0.0, 0.1, "nan", "inf", "-inf")
    ),
    *(
        np.longdouble(1) / 3,
        np.longdouble("nan"),
        np.clongdouble(1 - 2j),
        np.complex64(-0.0 + 1j),
        np.complex128(1j),
    ),
    *(np.int64(-(2**63)), np.uint64(2**64 - 1), np.int8(-128), np.longlong(7), np.ulonglong(7), np.intc(3)),
    *(
        np.datetime64("2024-02-29"),
        np.datetime64("2024-02-29T01", "ns"),
        np.datetime64("NaT", "s"),
        np.datetime64(3, "25s"),
    ),
    *(np.timedelta64(5, "m"), np.zeros((), "m8")[()]),
    *(np.str_(text) for text in TEXTS),
    *(np.bytes_(data) for data in (b"", b"abc", b"a\0", bytes(range(256)))),
    *(np.void(b""), np.void(b"a\0"), np.array([(1, 2.5)], dtype=[("x", "u1"), ("y", ">f8")])[0]),
    np.bool_(False),
]
ARRAYS = [
    np.array(5),
    np.zeros((2, 0, 3), dtype="f4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(24, dtype=">i4").reshape(2, 3, 4)[:, ::-1, ::2],
    np.array(["ä", "bc"]),
    np.array([("a", [1, 2])], dtype=[("n", "S3"), ("v", "<i2", (2,))]),
    np.array(["2024-01-01", "NaT"], dtype="M8[D]"),
    np.array([np.nan, -0.0]),
    np.array("text"),
]


def tensor_of(name: str, count: int = 6) -> torch.Tensor:
    """A tensor whose bits are small numbers: every dtype can be made from them."""
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    bits = torch.arange(count * size, dtype=torch.uint8) % (2 if name == "bool" else 64)
    return bits.view(dtype)


def shapes_of(name: str) -> dict[str, torch.Tensor]:
    tensor = tensor_of(name)
    return {
        "vector": tensor,
        "0-d": tensor[0],
        "empty": tensor[:0],
        "empty matrix": tensor[:0].reshape(0, 3),
        "transposed": tensor.reshape(2, 3).t(),
        "strided": tensor[::2],
        "expanded": tensor[:1].expand(4),
    }


def ids(value: object) -> str:
    return f"{type(value).__name__} {value!r:.20}".encode("ascii", "replace").decode()


@pytest.mark.parametrize("label", PLAIN, ids=ids)
def test_plain_values_come_back(label, round_trip, assert_same):
    for nesting in (label, [label], (label,), {"k": label}, {5: label}, [[label], ()]):
        assert_same(nesting, round_trip(nesting))


@pytest.mark.parametrize("label", SCALARS, ids=ids)
def test_every_numpy_scalar_comes_back(label, round_trip, assert_same):
    for nesting in (label, (label, label), {"k": [label, 1.5, math.nan]}):
        assert_same(nesting, round_trip(nesting))


def test_the_scalars_tried_are_all_there_are():
    assert {type(scalar) for scalar in SCALARS} == set(np.sctypeDict.values()) - {np.object_}


@pytest.mark.parametrize("label", ARRAYS, ids=ids)
def test_arrays_come_back(label, round_trip, assert_same):
    result = round_trip({"a": label, "b": [label]})
    assert_same({"a": label, "b": [label]}, result)
    assert result["a"].flags.writeable


@pytest.mark.parametrize("name", sorted(name for name in TENSOR_DTYPES if hasattr(torch, name)))
def test_tensors_of_every_dtype_come_back(name, round_trip, assert_same):
    for label in shapes_of(name).values():
        assert_same([label, 1], round_trip([label, 1]))


def test_tensors_of_every_other_dtype_are_refused():
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    others = {str(dtype).removeprefix("torch.") for dtype in dtypes} - TENSOR_DTYPES
    assert all(name.startswith(("bits", "int", "uint", "qint", "quint", "bit")) for name in others)
    assert not others & {"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}


def test_a_tensor_leaves_its_graph_and_its_lazy_bits_behind(round_trip, assert_same):
    leaf = torch.ones(3, requires_grad=True)
    assert_same(leaf * 2, round_trip(leaf * 2))
    assert not round_trip(leaf).requires_grad
    lazy = torch.tensor([1 + 2j, -3j])
    assert_same(lazy.conj(), round_trip(lazy.conj()))
    assert_same(lazy.conj().imag, round_trip(lazy.conj().imag))
    assert_same(lazy[:1].conj().imag, round_trip(lazy[:1].conj().imag))  # contiguous, and negated lazily


def test_a_tensor_that_comes_back_is_free_to_be_written(round_trip):
    result = round_trip(torch.zeros(2, dtype=torch.bfloat16))
    result[0] = 1
    assert result.tolist() == [1, 0]


@pytest.mark.parametrize(
    "label",
    [
        [],
        (),
        {},
        [[]],
        ((),),
        [()],
        ([],),
        {"a": {}},
        {1: ()},
        [{}],
        {"b": 1, "a": 2},
        {3: "x", -1: "y", 10**30: None},
        {"1": 1, 2: 2},
        {1: 1, "2": ()},
        {"": 0, "ä\x00": (1,)},
        [1, (2, [3, (4,)])],
        [(1, 2), (3, 4)],
        [(1,), [1]],
        {"boxes": [(0.5, 1)], "names": ("a", None)},
        {"a": np.float32(1), "b": np.float32(2)},
        {7: np.arange(3), 8: np.arange(2)},
        [np.arange(2), torch.arange(2), np.arange(3)],
        [1.0, math.nan],
        {"x": 1.0, "y": -math.inf},
        ["NaN", math.nan],
        [1, 1.0, True, None, "1"],
    ],
    ids=repr,
)
def test_nested_labels_come_back_in_their_order(label, round_trip, assert_same):
    assert_same(label, round_trip(label))


def dicts(values: st.SearchStrategy) -> st.SearchStrategy:
    keys = st.lists(st.text() | st.integers(), unique_by=str, max_size=4)
    return keys.flatmap(
        lambda names: st.tuples(*[values] * len(names)).map(lambda v: dict(zip(names, v, strict=True)))
    )


TENSORS = st.sampled_from(sorted(name for name in TENSOR_DTYPES if hasattr(torch, name))).flatmap(
    lambda name: st.sampled_from(sorted(shapes_of("uint8"))).map(lambda shape: shapes_of(name)[shape])
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.integers(0, len(SCALARS) - 1).map(SCALARS.__getitem__),  # some cannot be hashed
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)),
    TENSORS,
)
LABELS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | dicts(inner),
    max_leaves=12,
)


@settings(max_examples=1000, deadline=None)
@given(LABELS)
def test_labels_of_any_nesting_come_back(round_trip, assert_same, label):
    assert_same(label, round_trip(label))
    encoded = encode_label(label)
    assert encode_label(label) == encoded
    check_kind(json.loads(json.dumps(encoded.kind)), what="it")


def test_an_int_alone_is_a_class():
    assert encode_label(-7) == ("cls", (b"-7",))


@pytest.mark.parametrize(
    ("label", "text", "kind"),
    [
        (True, "true", "json"),
        ([1, 2.5, None, "ä"], '[1,2.5,null,"ä"]', "json"),
        ((1, 2), "[1,2]", {"tuple": "json"}),
        ({"b": 1, "a": [True]}, '{"b":1,"a":[true]}', "json"),
        ({2: 1, 1: 0}, '{"2":1,"1":0}', {"int_dict": "json"}),
        ({"a": 1, 1: 0}, '{"a":1,"1":0}', {"dict": [["a", "json"], [1, "json"]]}),
        (np.arange(2), "null", "array"),
        (np.float32(0.5), "0.5", {"scalar": "float32"}),
        (np.bytes_(b"a\xff"), '"aÿ"', {"scalar": "bytes"}),
        (np.complex64(1), "null", "scalar"),
        (math.nan, '"NaN"', "float"),
        ([torch.zeros(2), torch.zeros(3)], "[null,null]", {"list": {"tensor": "float32"}}),
        (
            {"x": torch.zeros(2), "y": 1},
            '{"x":null,"y":1}',
            {"dict": [["x", {"tensor": "float32"}], ["y", "json"]]},
        ),
        ({"x": torch.zeros(2)}, '{"x":null}', {"dict": {"tensor": "float32"}}),
        ([(1,), 2], "[[1],2]", {"list": [{"tuple": "json"}, "json"]}),
    ],
    ids=repr,
)
def test_the_text_is_what_a_stranger_expects(label, text, kind):
    encoded = encode_label(label)
    assert (encoded.parts[0].decode(), encoded.kind) == (text, kind)


def test_kinds_follow_types_and_not_values():
    def kinds(labels):
        return {json.dumps(encode_label(label).kind) for label in labels}

    values = [0.5, math.nan, -math.inf]
    assert len(kinds([{"a": a, "b": [b, c], "n": 1} for a in values for b in values for c in values])) == 2
    assert len(kinds([[torch.zeros(n)] * n for n in range(1, 9)])) == 1
    assert len(kinds([{n: (1, 2), n + 1: (3, 4)} for n in range(9)])) == 1
    assert len(kinds([{str(n): np.zeros(n)} for n in range(9)])) == 1


def nest(value: object, depth: int, wrap) -> object:
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"k": value},
    "ints": lambda value: {1: value},
    "mixed": lambda value: {"k": value, 1: (2,)},
    "pair": lambda value: [value, (1,)],
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("leaf", [1, math.nan, np.zeros(1), np.float32(1)], ids=ids)
def test_64_levels_are_stored_and_65_are_not(wrap, leaf, round_trip, assert_same):
    levels = 63 if wrap in (WRAPS["mixed"], WRAPS["pair"]) else 64  # those have a tuple at the bottom
    label = nest(leaf, levels, wrap)
    assert_same(label, round_trip(label))
    check_kind(encode_label(label).kind, what="it")
    with pytest.raises(LabelTypeError, match="nested more than 64 deep"):
        encode_label(nest(leaf, 65, wrap))


def test_a_big_endian_array_makes_a_tensor(read_label, assert_same):
    tensor = read_label({"tensor": "int32"}, b"null", encode_array(np.array([1, 2], dtype=">i4")))
    assert_same(tensor, torch.tensor([1, 2], dtype=torch.int32))


@settings(max_examples=1000, deadline=None)
@given(
    LABELS.map(encode_label),
    st.data(),
)
def test_changed_bytes_give_a_label_or_a_format_error(read_label, encoded, data):
    parts = [*encoded.parts]
    number = data.draw(st.integers(0, len(parts) - 1))
    part = bytearray(parts[number])
    for offset in data.draw(st.lists(st.integers(0, max(0, len(part) - 1)), min_size=1, max_size=3)):
        part[offset : offset + 1] = data.draw(st.binary(max_size=2))
    parts[number] = bytes(part)
    try:
        read_label(encoded.kind, *parts)
    except FormatError as error:
        assert "sample 'k'" in str(error)  # noqa: PT017
