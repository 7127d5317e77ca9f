"""Laws of what a run is told: any number becomes JSON and comes back, and all else is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchkit.errors import FormatError, UsageError
from benchkit.train.run_values import (
    MAX_LINE_BYTES,
    check_step,
    decode_logged,
    encode_logged,
    flatten,
    plain_configuration,
)

NUMBERS = st.floats(width=64) | st.integers(-(1 << 63), (1 << 64) - 1)


@given(
    st.dictionaries(st.text("abc/_ é", min_size=1), NUMBERS | st.text('ab\n\0é\\"', max_size=20)),
    st.integers(0, 1 << 62),
)
def test_what_is_logged_comes_back_and_is_json_on_one_line(values, step):
    line = encode_logged(values, step, 12.5)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=pytest.fail)
    logged = decode_logged(line)
    assert (logged.step, logged.time) == (step, 12.5)
    assert list(logged.values) == list(values)
    for name, value in values.items():
        read = logged.values[name]
        assert read == value or (math.isnan(value) and math.isnan(read))
        assert type(read) is type(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[2]]), 2),
        (torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([0.25]), 0.25),
        (np.bool_(True), 1),
        (True, 1),
        (float("-inf"), -math.inf),
        (torch.tensor(float("inf")), math.inf),
        ("words", "words"),
    ],
)
def test_tensors_and_numpy_scalars_of_one_element_are_numbers(value, read):
    logged = decode_logged(encode_logged({"x": value}, 0, 0.0)).values["x"]
    assert logged == read
    assert type(logged) is type(read)


def test_mappings_become_names_with_a_slash():
    line = encode_logged({"loss": {"train": 1.0, "val": {"a": 2}}}, 0, 0.0)
    assert decode_logged(line).values == {"loss/train": 1.0, "loss/val/a": 2}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(3), "Tensor of shape (3,)"),
        (np.zeros((2, 2)), "ndarray of shape (2, 2)"),
        ([1, 2], "[1, 2] (list)"),
        (None, "None"),
        (1j, "complex"),
        (object(), "object"),
        (1 << 64, "an integer of 65 bits"),
        ("x" * 10_001, "10,001 characters"),
    ],
)
def test_what_is_no_scalar_is_refused_by_name(value, words):
    with pytest.raises(UsageError) as refused:
        encode_logged({"fine": 1, "val/loss": value}, 3, 0.0)
    assert "'val/loss'" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[2J", "x" * 201, 5])
def test_names_that_would_not_fit_a_line_of_text_are_refused(name):
    with pytest.raises(UsageError, match="no name of a metric"):
        encode_logged({name: 1.0}, 0, 0.0)


def test_half_a_character_and_too_much_at_once_are_refused():
    with pytest.raises(UsageError, match="characters that are none"):
        encode_logged({"x": "\ud800"}, 0, 0.0)
    with pytest.raises(UsageError, match=str(MAX_LINE_BYTES)):
        encode_logged({f"name{number}": "x" * 9000 for number in range(200)}, 0, 0.0)
    with pytest.raises(UsageError, match="values by name"):
        encode_logged([("x", 1)], 0, 0.0)


@pytest.mark.parametrize("step", [-1, 1.5, True, "3", 1 << 63])
def test_a_step_is_a_whole_number_from_0_on(step):
    with pytest.raises(UsageError, match="step"):
        check_step(step)
    assert check_step(np.int64(3)) == check_step(torch.tensor(3)) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"step":1,"time":1}',
        b'{"step":-1,"time":1,"values":{}}',
        b'{"step":1.5,"time":1,"values":{}}',
        b'{"step":1,"time":1,"values":{"x":null}}',
        b'{"step":1,"time":1,"values":{"x":NaN}}',
        b'{"step":1,"time":1,"values":{"x":{"y":1}}}',
        b'{"step":1,"time":1,"values":{"x":%d}}' % (1 << 64),
        b'{"step":1,"time":1,"values":{"x":1,"x":2}}',
    ],
)
def test_damaged_lines_are_format_errors(line):
    with pytest.raises(FormatError):
        decode_logged(line)


def test_a_nested_configuration_is_json():
    values = {
        "lr": np.float64(0.1),
        "model": {"depth": 2, "sizes": (1, torch.tensor(2)), "flags": [True, None]},
        "data": Path("/data/x"),
        "limit": math.inf,
        3: "three",
    }
    plain = plain_configuration(values)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain == {
        "lr": 0.1,
        "model": {"depth": 2, "sizes": [1, 2], "flags": [True, None]},
        "data": "/data/x",
        "limit": "Infinity",
        "3": "three",
    }
    assert flatten(plain)["model.sizes"] == [1, 2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": {"b": [1, print]}}, "'a.b[1]'"),
        ({"a": {"b": torch.zeros(2)}}, "Tensor of shape (2,)"),
        ({"a": {(1, 2): 3}}, "key (1, 2) in 'a'"),
        ({"a": 1 << 70}, "71 bits"),
        ([1], "values by name"),
    ],
)
def test_what_no_json_can_say_is_refused_by_its_place(values, words):
    with pytest.raises(UsageError) as refused:
        plain_configuration(values)
    assert words in str(refused.value)


def test_an_endless_configuration_is_refused():
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(UsageError, match="deep"):
        plain_configuration(endless)
