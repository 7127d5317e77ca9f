"""Replacing a numbered object: the new bytes are there before the old ones go, and nobody's are lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.s3_servers import Bucket

from benchkit.errors import StoreError
from benchkit.settings import S3Settings
from benchkit.store.base import Store
from benchkit.store.bundles import Shelf
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore
from benchkit.store.numbered import list_numbered, publish_numbered, read_numbered, replace_numbered
from benchkit.store.urls import open_store

PREFIX = "code/versions/"


class Meddling(MemoryStore):
    """A store in which something happens before a given deletion."""

    def __init__(self) -> None:
        super().__init__()
        self.before_delete: list[Callable[[], None]] = []

    def delete(self, name: str) -> None:
        if self.before_delete:
            self.before_delete.pop(0)()
        super().delete(name)


def state(store: Store) -> dict[int, bytes]:
    return {item.number: read_numbered(store, item) for item in list_numbered(store, PREFIX)}


def fill(store: Store, *texts: bytes) -> None:
    for text in texts:
        publish_numbered(store, PREFIX, text)


def test_a_replaced_object_keeps_its_number() -> None:
    store = MemoryStore()
    fill(store, b"1", b"2", b"3")
    item = replace_numbered(store, list_numbered(store, PREFIX)[1], b"two")
    assert item.number == 2
    assert state(store) == {1: b"1", 2: b"two", 3: b"3"}
    assert len(list(store.list(PREFIX))) == 3


def test_the_old_stands_until_the_new_is_there() -> None:
    store = Meddling()
    fill(store, b"1", b"2")
    seen: list[dict[int, bytes]] = []
    store.before_delete.append(lambda: seen.append(state(store)))
    replace_numbered(store, list_numbered(store, PREFIX)[0], b"one")
    assert seen == [{1: b"1", 2: b"2"}]
    assert state(store) == {1: b"one", 2: b"2"}


def test_killed_before_the_old_goes_it_loses_nothing_and_is_made_again() -> None:
    class Killed(MemoryStore):
        alive = True

        def delete(self, name: str) -> None:
            if not self.alive:
                raise StoreError("killed")
            super().delete(name)

    store = Killed()
    fill(store, b"1", b"2")
    store.alive = False
    with pytest.raises(StoreError, match="killed"):
        replace_numbered(store, list_numbered(store, PREFIX)[0], b"draft")
    assert state(store) == {1: b"1", 2: b"2"}
    store.alive = True
    replace_numbered(store, list_numbered(store, PREFIX)[0], b"final")
    assert state(store) == {1: b"final", 2: b"2", 3: b"draft"}


def test_a_publisher_in_between_takes_away_neither_its_own_nor_the_new_one() -> None:
    store = Meddling()
    fill(store, b"1", b"2")
    store.before_delete.append(lambda: fill(store, b"3"))  # moves what seems to have lost its number
    item = replace_numbered(store, list_numbered(store, PREFIX)[0], b"one")
    assert item.number == 1
    found = state(store)
    assert found[1] == b"one"
    assert sorted(found.values()) == [b"2", b"3", b"one"]


def test_two_that_replace_one_object_both_stay() -> None:
    store = Meddling()
    fill(store, b"1", b"2")
    old = list_numbered(store, PREFIX)[0]
    other: list[int] = []
    store.before_delete.append(lambda: other.append(replace_numbered(store, old, b"theirs").number))
    ours = replace_numbered(store, old, b"ours").number
    assert {ours, other[0]} >= {1}
    assert sorted(state(store).values()) == [b"2", b"ours", b"theirs"]


def test_the_same_bytes_replace_nothing() -> None:
    store = MemoryStore()
    fill(store, b"1")
    item = list_numbered(store, PREFIX)[0]
    assert replace_numbered(store, item, b"1") == item
    assert state(store) == {1: b"1"}


def check_bundles(store: Store, folder: Path, target: Path) -> None:
    shelf = Shelf(store=store, prefix="code/", kind="code", name="cats", maker="who packs")
    for text in ("1", "2", "new"):
        (folder / "a.txt").parent.mkdir(exist_ok=True)
        (folder / "a.txt").write_text(text)
        if text != "new":
            shelf.put(folder)
    first = shelf.find(1)
    into = "20260101-000000-00000000"
    bundle = shelf.publish(shelf.send(folder, into=into), into=into, details={"n": 1}, instead_of=first)
    assert (bundle.number, [b.number for b in shelf.versions()]) == (1, [1, 2])
    assert shelf.fetch(shelf.find(1), target).details == {"n": 1}
    assert (target / "a.txt").read_text() == "new"
    assert len(list(store.list("code/files/"))) == 2
    assert shelf.abandoned(older_than_seconds=0) == []


def test_a_bundle_is_replaced_with_its_files_in_a_folder(tmp_path: Path) -> None:
    check_bundles(LocalStore(tmp_path / "store"), tmp_path / "in", tmp_path / "out")


def test_a_bundle_is_replaced_with_its_files_in_swift(tmp_path: Path, swift_bucket: Bucket) -> None:
    store = open_store(swift_bucket.url, s3=S3Settings(endpoint_url=swift_bucket.server.endpoint))
    check_bundles(store, tmp_path / "in", tmp_path / "out")
