"""The handover of batches: all that rows may be made into arrives, through memory that has no name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.making import publish_samples
from support.reading import Labels, make
from torch.utils.data import default_collate

from benchkit.errors import SampleError

LARGE = 100_000
ON_LINUX = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has memory without a name")


class Pair(NamedTuple):
    one: Any
    two: Any


@dataclass
class Fields:
    label: torch.Tensor
    name: str


@pytest.fixture(autouse=True)
def numbers(project):
    publish_samples(project, "n", 8, per_chunk=4, size=1)


def handed_over(collate_fn, **options) -> list[Any]:
    """Return the two batches of four that a worker makes with this function."""
    return list(make("n", 4, 1, chunk=Labels, collate_fn=collate_fn, **options))


def mapped() -> set[str]:
    """Return the names of the files that are mapped in this process, libraries and queues' locks aside."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    names = {line[5] for line in lines if len(line) > 5}
    return {name for name in names if ".so" not in name and not name.startswith("/dev/shm/sem.")}


def views(rows):
    whole = torch.arange(4 * LARGE).reshape(4, LARGE)
    return [*whole.unbind(), whole.T, whole[1, ::7]]


MADE = {
    "numbers": lambda rows: rows,
    "words": lambda rows: {"names": [f"n{row}" for row in rows], "none": None, "nested": [(), {1.5: b"x"}]},
    "named": lambda rows: Pair(torch.tensor(rows), Fields(torch.ones(LARGE), "f")),
    "arrays": lambda rows: [np.arange(LARGE), np.array(rows), np.array(["a", "b"])],
    "dtypes": lambda rows: [
        torch.ones(LARGE).to(dtype) for dtype in (torch.bfloat16, torch.bool, torch.int8, torch.complex64)
    ],
    "empty": lambda rows: [torch.empty(0), torch.empty(3, 0), default_collate([torch.empty(0)] * 4)],
    "scalar": lambda rows: torch.tensor(rows[0]),
    "views": views,
    "put off": lambda rows: [torch.full((LARGE,), rows[0] + 1j).conj(), (1j * torch.ones(9)).conj().imag],
    "sparse": lambda rows: torch.eye(700).to_sparse(),
    "gradient": lambda rows: torch.ones(LARGE, requires_grad=True),
    "shared": lambda rows: torch.ones(LARGE).share_memory_(),
    "collated": lambda rows: default_collate([(row, torch.full((LARGE,), row), {"x": 0.5}) for row in rows]),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape, one.requires_grad) == (other.dtype, other.shape, other.requires_grad)
        return alike and torch.equal(one.to_dense(), other.to_dense())
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Fields):
        return same(vars(one), vars(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", MADE)
def test_whatever_the_rows_are_made_into_arrives(kind):
    expected = [MADE[kind](rows) for rows in ([0, 1, 2, 3], [4, 5, 6, 7])]
    assert same(handed_over(MADE[kind]), expected)


def test_views_of_one_memory_are_handed_over_as_views_of_one():
    for batch in handed_over(views):
        assert len({view.untyped_storage().data_ptr() for view in batch}) == 1
        batch[0][5] = -1
        assert batch[4][5, 0] == -1


def test_what_a_worker_writes_later_does_not_reach_a_batch_that_it_has_handed_over():
    kept = torch.zeros(LARGE)

    def write(rows):
        return kept.fill_(rows[0])

    first, second = handed_over(write)
    assert (first == 0).all()
    assert (second == 4).all()


@ON_LINUX
@pytest.mark.parametrize("kind", ["collated", "named"])
def test_no_memory_and_no_socket_has_a_name(kind, tmp_path, monkeypatch):
    # A path of this length is too long for a socket.
    temporary = tmp_path / ("t" * 100)
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = mapped()
    batches = handed_over(MADE[kind])
    assert len(batches) == 2
    assert {name for name in mapped() - before if name.startswith("/")} == {"/memfd:benchkit"}
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_that_cannot_be_handed_over_is_an_error_at_once(workers):
    begun = time.monotonic()
    with pytest.raises(SampleError, match=r"do not make a batch.*pickle"):
        list(make("n", 4, workers, chunk=Labels, collate_fn=lambda rows: lambda: rows, timeout_seconds=60))
    assert time.monotonic() - begun < 20
