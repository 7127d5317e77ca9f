"""Laws of kinds: the grammar is closed, and no deeper than labels are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchkit.errors import FormatError
from benchkit.format.kinds import check_kind
from benchkit.format.labels import decode_label


@pytest.mark.parametrize(
    "kind",
    [
        "cls",
        "json",
        "float",
        "array",
        "scalar",
        {"scalar": "float16"},
        {"tensor": "bfloat16"},
        {"list": "array"},
        {"list": []},
        {"tuple": ["json", {"tuple": "float"}]},
        {"dict": "array"},
        {"dict": {"dict": []}},
        {"int_dict": {"list": "json"}},
        {"dict": [["a", "json"], [1, {"scalar": "bool"}]]},
    ],
    ids=repr,
)
def test_kinds(kind):
    check_kind(kind, what="it")


@pytest.mark.parametrize(
    "kind",
    [
        None,
        1,
        True,
        [],
        {},
        "",
        "pickle",
        "list",
        {"list": None},
        {"list": "cls"},
        {"list": 1},
        {"list": [None]},
        {"list": ["json", "cls"]},
        {"list": "json", "tuple": "json"},
        {"set": "json"},
        {"cls": "json"},
        {"json": "json"},
        {"scalar": "object"},
        {"scalar": "complex64"},
        {"scalar": ["int8"]},
        {"scalar": None},
        {"tensor": "qint8"},
        {"tensor": "__class__"},
        {"tensor": "float32", "x": 1},
        {"dict": [["a"]]},
        {"dict": [["a", "json", 1]]},
        {"dict": [[None, "json"]]},
        {"dict": [[True, "json"]]},
        {"dict": [[1.5, "json"]]},
        {"dict": [["a", "json"], ["a", "json"]]},
        {"dict": [["1", "json"], [1, "json"]]},
        {"dict": ["a", "json"]},
        {"dict": {"a": "json"}},
        {"int_dict": []},
        {"int_dict": [[1, "json"]]},
    ],
    ids=repr,
)
def test_what_is_no_kind_is_refused(kind):
    with pytest.raises(FormatError, match=r"it has a label of unknown kind .*: upgrade benchkit"):
        check_kind(kind, what="it")


@pytest.mark.parametrize("wrap", [lambda kind: {"list": kind}, lambda kind: {"dict": [["a", kind]]}])
def test_64_levels_are_taken_and_65_are_not(wrap):
    kind = "json"
    for _ in range(64):
        kind = wrap(kind)
    check_kind(kind, what="it")
    with pytest.raises(FormatError, match="a kind in it is nested more than 64 deep"):
        check_kind(wrap(kind), what="it")


WORDS = st.sampled_from(["cls", "json", "float", "array", "scalar", "int8", "float32", "str", "list", "x"])
NAMES = st.sampled_from(["list", "tuple", "dict", "int_dict", "scalar", "tensor"])
TREES = st.recursive(
    WORDS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=2),
    max_leaves=10,
)
TEXTS = st.sampled_from(
    [b"null", b"1", b"[]", b"[1,null]", b"{}", b'{"a":null}', b'{"1":[]}', b'"NaN"', b"[[1.5]]", b"true"]
)


@settings(max_examples=2000, deadline=None)
@given(TREES, TEXTS)
def test_any_tree_is_refused_or_reads_any_text_or_refuses_it(kind, text):
    try:
        check_kind(kind, what="it")
        decode_label(kind, text, [b"no array"], what="it")
    except FormatError:
        return
