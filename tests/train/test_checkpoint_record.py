"""Laws of a checkpoint's record, which comes from a store and is not trusted."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchkit.errors import FormatError
from benchkit.train.checkpoint_record import Checkpoint, read_details

LOADER: dict[str, int | str | bool] = {"dataset": "train", "epoch": 2, "position": 640, "shuffle": True}
CHECKPOINT = Checkpoint(
    name="cats",
    number=3,
    id="20261121-101500-0a1b2c3d",
    created=1_795_000_000.25,
    processes=2,
    places=1,
    step=0,
    prepared={"models": 1, "loaders": 1},
    loaders=(LOADER,),
)


def test_a_record_comes_back_from_json_as_it_was() -> None:
    details = json.loads(json.dumps(CHECKPOINT.to_details()))
    assert read_details(details, name="cats", number=3) == CHECKPOINT
    assert (CHECKPOINT.label, CHECKPOINT.epoch, CHECKPOINT.position) == ("cats@3", 2, 640)
    assert "not in the store" in CHECKPOINT.numbered(None).label


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", None),
        ("id", 7),
        ("created", "now"),
        ("created", math.nan),
        ("created", math.inf),
        ("created", 1e300),
        ("created", -1.0),
        ("processes", True),
        ("processes", 0),
        ("places", -1),
        ("step", -1),
        ("step", 1.5),
        ("prepared", []),
        ("prepared", {"models": "1"}),
        ("loaders", {}),
        ("loaders", [7]),
        ("loaders", [{"epoch": 1}]),
        ("loaders", [{"epoch": 1, "position": "2"}]),
        ("loaders", [LOADER] * 101),
    ],
)
def test_a_record_with_a_value_that_cannot_be_is_refused(key: str, value: Any) -> None:
    with pytest.raises(FormatError, match="checkpoint cats"):
        read_details(CHECKPOINT.to_details() | {key: value}, name="cats", number=3)


def test_a_record_without_a_value_is_refused() -> None:
    for key in CHECKPOINT.to_details():
        details = CHECKPOINT.to_details()
        del details[key]
        with pytest.raises(FormatError):
            read_details(details, name="cats", number=3)
