"""The state: what it takes, and what it refuses."""

from __future__ import annotations

import pytest

from benchkit.errors import StateError
from benchkit.stream.state import LoaderState, read_state

STATE = LoaderState(
    dataset="train", manifest="ab" * 32, seed=1, shuffle=True, lanes=32, epoch=2, position=640
)


def test_a_state_reads_back_as_it_was_written():
    assert read_state(STATE.to_dict()) == STATE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"order": 99}, "order version 99"),
        ({"epoch": "1"}, "epoch"),
        ({"position": -1}, "negative"),
        ({"position": True}, "position"),
        ({"shuffle": 1}, "shuffle"),
        ({"lanes": 0}, "lanes"),
        ({"manifest": None}, "manifest"),
    ],
)
def test_other_values_are_refused_by_name(change, message):
    with pytest.raises(StateError, match=message):
        read_state(STATE.to_dict() | change)


def test_what_is_no_dict_is_refused():
    with pytest.raises(StateError, match="the state is None, not a dictionary"):
        read_state(None)


def test_a_dict_of_something_else_is_refused():
    with pytest.raises(StateError, match="format None"):
        read_state({"model": 1})
