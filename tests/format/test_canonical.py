"""Laws of canonical JSON: one way to write, a bounded way to read."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchkit.errors import FormatError
from benchkit.format import canonical

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def read(data: bytes, **limits: int) -> object:
    return canonical.decode(data, what="it", max_bytes=limits.pop("max_bytes", 1 << 20), **limits)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


@settings(max_examples=300)
@given(JSON_VALUES)
def test_what_is_written_is_read_again(value):
    data = canonical.encode(value)
    assert read(data, max_depth=1000) == value
    assert canonical.encode(read(data, max_depth=1000)) == data


def test_keys_are_sorted_and_nothing_is_escaped_that_need_not_be():
    assert canonical.encode({"b": [1, 2.5], "a": "ä\n🙂"}) == '{"a":"ä\\n🙂","b":[1,2.5]}'.encode()


def test_nan_is_not_written():
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical.encode(float("nan"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1,]",
        b"'a'",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b'{"a":1,"a":2}',
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\uDFFF":1}',
        b"\xef\xbb\xbf1",
        "[1]".encode("utf-16"),
        "[1]".encode("utf-32-le"),
        b"1" * 5000,
        b'"\n"',
    ],
)
def test_what_is_no_json_is_refused(data):
    with pytest.raises(FormatError, match="it is no JSON"):
        read(data)


def test_a_pair_of_surrogates_is_one_character():
    assert read(b'"\\ud83d\\ude42"') == "🙂"


def test_more_bytes_than_the_limit_are_refused():
    assert read(b"[1]", max_bytes=3) == [1]
    with pytest.raises(FormatError, match="has 3 bytes; at most 2 are read"):
        read(b"[1]", max_bytes=2)


def test_64_levels_are_read_and_65_are_not():
    assert json.loads(nested(64)) == read(nested(64))
    for deep in (nested(65), b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 100_000):
        with pytest.raises(FormatError, match="nested more than 64 deep"):
            read(deep)


def test_brackets_in_strings_and_side_by_side_do_not_count():
    value = ["\\", "[" * 200, '\\"[[[[' * 50, {"{" * 99: "\\"}, *([[]] * 500)]
    assert read(canonical.encode(value)) == value


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", "a", ","]), max_size=80).map("".join))
def test_depth_is_counted_as_json_sees_it(text):
    data = json.dumps([text]).encode()  # one level of brackets, whatever the string holds
    assert read(data, max_depth=1) == [text]
    with pytest.raises(FormatError):
        read(b"[" + data + b"]", max_depth=1)


@pytest.mark.parametrize("tail", [b'\\"' * 500_000, b'"' * 1_000_001, b"\\" * 1_000_000, b'"\\' * 500_000])
def test_hostile_text_takes_time_by_its_length_alone(tail):
    started = time.monotonic()
    with pytest.raises(FormatError):
        read(b"[" * 65 + b'"' + tail, max_bytes=1 << 30)
    assert time.monotonic() - started < 2
