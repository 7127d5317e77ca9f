"""The store in memory keeps the contract."""

from __future__ import annotations

import pickle

import pytest
from store.contract import StoreContract

from benchkit.store.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_a_pickled_memory_store_is_a_copy() -> None:
    store = MemoryStore()
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    copy.write("a", b"data")
    assert store.stat("a") is None
