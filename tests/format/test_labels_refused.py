"""Laws of labels that are refused: types that are not stored, and members that do not fit their kind."""

import collections
import datetime as dt
import enum
import fractions

import numpy as np
import pytest
import torch

from benchkit.errors import FormatError, LabelTypeError
from benchkit.format.arrays import encode_array
from benchkit.format.labels import MAX_TEXT_BYTES, encode_label


class Color(enum.IntEnum):
    RED = 1


class Pair(tuple):
    __slots__ = ()


REFUSED = [
    b"bytes",
    bytearray(b"b"),
    {1, 2},
    frozenset(),
    1j,
    range(3),
    object(),
    dt.date(2024, 1, 1),
    fractions.Fraction(1, 2),
    Color.RED,
    Pair((1, 2)),
    collections.namedtuple("Point", "x y")(1, 2),  # noqa: PYI024
    collections.OrderedDict(a=1),
    collections.defaultdict(int),
    np.array([None]),
    np.array([{}, "a"], dtype=object),
    np.array([(None,)], dtype=[("x", "O")]),
    np.ma.masked_array([1, 2], [True, False]),
    np.ma.masked,
    np.rec.array([(1,)], dtype=[("x", "i4")]),
    np.rec.array([(1,)], dtype=[("x", "i4")])[0],
    np.rec.array([(1,)], dtype=[("x", "i4")]).view(np.ndarray),
    np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 2]})),
    np.dtype("f4"),
    np.float32,
    torch.nn.Parameter(torch.zeros(2)),
    torch.zeros(2).to_sparse(),
    torch.zeros(2, device="meta"),
    torch.float32,
    torch.Size([1]),
    10**4300,
    -(10**4300),
    10**5000,
    "\ud800",
    "a\udcff",
    np.str_("\ud800"),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_other_types_are_refused(value):
    for label in (value, [1, value], {"k": (value,)}, {7: {"a": value}}):
        with pytest.raises(LabelTypeError):
            encode_label(label)


def test_a_matrix_is_refused():
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1]])
    with pytest.raises(LabelTypeError, match=r"label is of type numpy\.matrix"):
        encode_label(matrix)


@pytest.mark.parametrize(
    "key",
    [None, True, 1.5, (1,), b"k", np.int64(1), np.str_("a"), Color.RED, 10**5000, "\ud800"],
    ids=lambda key: type(key).__name__,
)
def test_other_keys_are_refused(key):
    with pytest.raises(LabelTypeError):
        encode_label({"a": {key: 1}})


def test_keys_that_json_cannot_tell_apart_are_refused():
    for label in ({1: "a", "1": "b"}, {"1": "b", 1: "a"}):
        with pytest.raises(LabelTypeError, match="which JSON cannot tell apart"):
            encode_label(label)


def test_a_message_says_where_and_what_and_what_else():
    with pytest.raises(LabelTypeError) as info:
        encode_label({"a": [0, ({5: {1, 2}},)]})
    assert str(info.value).startswith(
        "label['a'][1][0][5] is of type builtins.set; what can be stored: int, float"
    )


def test_a_label_that_holds_itself_is_refused():
    label = []
    label.append(label)
    with pytest.raises(LabelTypeError, match="nested more than 64 deep"):
        encode_label(label)


def test_a_text_that_no_reader_takes_is_refused():
    with pytest.raises(LabelTypeError, match="use NumPy arrays for its numbers, or a file"):
        encode_label("x" * MAX_TEXT_BYTES)


MATRIX = encode_array(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("kind", "text", "arrays"),
    [
        ("cls", b"", []),
        ("cls", b"1.0", []),
        ("cls", b" 1", []),
        ("cls", b"1\n", []),
        ("cls", b"+1", []),
        ("cls", b"01", []),
        ("cls", b"-0", []),
        ("cls", b"1_0", []),
        ("cls", "\u0661".encode(), []),
        ("cls", b"\xff", []),
        ("cls", b"9" * 4301, []),
        ("cls", b"9" * 10_000_000, []),
        ("json", b"", []),
        ("json", b"NaN", []),
        ("json", b"\xff", []),
        ("json", b"[" * 65 + b"]" * 65, []),
        ("json", b'"\\ud800"', []),
        ("float", b'"nan"', []),
        ("float", b"1", []),
        ("float", b"null", []),
        ("array", b"1", [MATRIX]),
        ("array", b"null", [b"no array"]),
        ("scalar", b"null", [MATRIX]),
        ({"tensor": "float32"}, b"null", [MATRIX]),
        ({"tensor": "bfloat16"}, b"null", [encode_array(np.zeros(2, "i2"))]),
        ({"tensor": "float32"}, b"[]", [encode_array(np.zeros(2, "f4"))]),
        ({"list": "array"}, b"null", []),
        ({"list": "array"}, b"{}", []),
        ({"list": ["json"]}, b"[]", []),
        ({"list": ["json"]}, b"[1,2]", []),
        ({"tuple": "json"}, b'"ab"', []),
        ({"dict": "float"}, b"[]", []),
        ({"dict": [["a", "json"]]}, b'{"b":1}', []),
        ({"dict": [["a", "json"]]}, b'{"a":1,"b":1}', []),
        ({"dict": [["a", "json"], ["b", "json"]]}, b'{"b":1,"a":1}', []),
        ({"dict": [["a", "json"]]}, b"null", []),
        ({"int_dict": "json"}, b'{"a":1}', []),
        ({"int_dict": "json"}, b'{"01":1}', []),
        ({"scalar": "int8"}, b"128", []),
        ({"scalar": "uint8"}, b"-1", []),
        ({"scalar": "int64"}, b"9223372036854775808", []),
        ({"scalar": "int64"}, b"true", []),
        ({"scalar": "int64"}, b"1.0", []),
        ({"scalar": "bool"}, b"1", []),
        ({"scalar": "float16"}, b"1e5", []),
        ({"scalar": "float32"}, b"0.1", []),
        ({"scalar": "float64"}, b"1", []),
        ({"scalar": "float64"}, b'"x"', []),
        ({"scalar": "str"}, b"1", []),
        ({"scalar": "bytes"}, '"\u0100"'.encode(), []),
        ({"scalar": "bytes"}, b"null", []),
    ],
    ids=repr,
)
def test_text_and_arrays_that_do_not_fit_the_kind_are_refused(read_label, kind, text, arrays):
    with pytest.raises(FormatError):
        read_label(kind, text, *arrays)


def test_a_tensor_of_a_newer_torch_says_so(read_label, monkeypatch):
    monkeypatch.delattr(torch, "float8_e5m2")
    with pytest.raises(FormatError, match="float8_e5m2: upgrade torch"):
        read_label({"tensor": "float8_e5m2"}, b"null", encode_array(np.zeros(2, "u1")))
