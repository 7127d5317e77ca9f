"""What the tests of the format share: the golden files, chunks in memory, and equality to the last type."""

import math
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchkit.format.index import ChunkIndex, decode_index
from benchkit.format.kinds import check_kind
from benchkit.format.labels import decode_label, encode_label
from benchkit.format.manifest import ChunkEntry


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """The names of `make_golden.py`: what the golden files were made from, and where they are."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "make_golden.py")))


@dataclass(frozen=True)
class Chunk:
    """A chunk in memory: stored bytes, plain tar, entry and index."""

    stored: bytes
    tar: bytes
    entry: ChunkEntry
    index: ChunkIndex

    def read(self, offset: int, length: int) -> bytes:
        return self.tar[offset : offset + length]


@pytest.fixture(scope="session")
def make_chunk(golden) -> Callable[..., Chunk]:
    def make(samples, *, codec="none") -> Chunk:
        tar, plain = golden.write_chunk(tuple(samples), codec="none")
        stored, entry = golden.write_chunk(tuple(samples), codec=codec)
        assert (entry.tar, entry.index.digest) == (plain.tar, plain.index.digest)
        start = entry.index.tar_offset
        data = tar[start : start + entry.index.tar_length]
        index = decode_index(data, tar_bytes=entry.tar_bytes, samples=entry.samples, what="chunk")
        return Chunk(stored, tar, entry, index)

    return make


@pytest.fixture(scope="session")
def round_trip() -> Callable[[Any], Any]:
    """A label as it comes back from its members."""

    def through(label: Any) -> Any:
        encoded = encode_label(label)
        text, *arrays = encoded.parts
        return decode_label(encoded.kind, text, arrays, what="sample")

    return through


@pytest.fixture(scope="session")
def read_label() -> Callable[..., Any]:
    """A label out of members that are given, of a kind that is given."""

    def read(kind: Any, text: bytes, *arrays: bytes) -> Any:
        check_kind(kind, what="it")
        return decode_label(kind, text, arrays, what="sample 'k'")

    return read


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Any, Any], None]:
    return _assert_same


def _assert_same(left: Any, right: Any) -> None:
    """Two labels are equal in value, in type, in the sign of zero, and in the order of keys."""
    assert type(left) is type(right)
    if isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            _assert_same(a, b)
    elif isinstance(left, dict):
        _assert_same(list(left), list(right))
        _assert_same(list(left.values()), list(right.values()))
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        _assert_same_bytes(left.detach(), right)
    elif isinstance(left, np.ndarray | np.generic):
        _assert_same_array(np.asarray(left), np.asarray(right))
        if isinstance(left, str | bytes):
            assert list(left) == list(right)
    elif isinstance(left, float):
        assert (math.isnan(left) and math.isnan(right)) or left == right
        assert math.isnan(left) or math.copysign(1, left) == math.copysign(1, right)
    else:
        assert left == right


def _assert_same_bytes(left: torch.Tensor, right: torch.Tensor) -> None:
    assert right.device.type == "cpu"
    dense = [tensor.resolve_conj().resolve_neg() for tensor in (left, right)]
    fresh = [tensor.clone(memory_format=torch.contiguous_format) for tensor in dense]
    assert bytes(fresh[0].untyped_storage()) == bytes(fresh[1].untyped_storage())


def _assert_same_array(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype
    assert left.dtype.type is right.dtype.type
    assert left.shape == right.shape
    if left.dtype.names is not None:
        for name in left.dtype.names:
            _assert_same_array(left[name], right[name])
    elif left.dtype.kind in "fc":
        assert np.array_equal(left, right, equal_nan=True)
        for part in ("real", "imag"):
            signs = np.signbit(getattr(left, part)), np.signbit(getattr(right, part))
            assert (np.equal(*signs) | np.isnan(getattr(left, part))).all()
    else:
        assert left.tobytes() == right.tobytes()
