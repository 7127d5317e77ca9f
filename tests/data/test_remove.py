"""Removal frees what nothing else counts on, manifests first, and nothing more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchkit.data.catalogue import Version, find_version, list_datasets, list_versions, read_manifest
from benchkit.data.intents import YOUNG_SECONDS, encode_intent, new_intent_name
from benchkit.data.pack import PackReport
from benchkit.data.remove import plan_removal, remove
from benchkit.data.upload import upload
from benchkit.data.verify import verify
from benchkit.errors import CorruptError, FormatError, NotFoundError, StoreError
from benchkit.store.base import Store
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore

Pack = Callable[..., PackReport]


def chunks_of(store: Store, number: int) -> set[str]:
    manifest = read_manifest(store, find_version(store, "train", number=number))
    return {name for name, _ in manifest.objects()}


def present(store: Store) -> set[str]:
    return {info.name for info in store.list("datasets/train/chunks/")}


@pytest.fixture
def two_versions(many: Any, pack_small: Pack, staging: LocalStore, tmp_path: Path) -> LocalStore:
    """Return a store with two versions that share all chunks but one."""
    pack_small(many)
    many.labels[0] = "other"
    afresh = LocalStore(tmp_path / "afresh")  # built upon, the first chunk would be kept, with a dead row
    pack_small(many, staging=afresh)
    upload(afresh, staging, "train")
    return staging


def test_a_version_goes_with_the_chunks_that_it_alone_needs(
    two_versions: LocalStore, read_back: Callable[..., Any]
) -> None:
    store = two_versions
    own, shared = chunks_of(store, 1) - chunks_of(store, 2), chunks_of(store, 1) & chunks_of(store, 2)
    removal = plan_removal(store, "train", 1)
    assert (set(removal.chunks), removal.kept_chunks) == (own, len(shared))
    sizes = {info.name: info.size for info in store.list()}
    assert removal.freed_bytes == sum(sizes[name] for name in (*removal.chunks, *removal.manifests))
    assert len(own) == 1
    remove(store, removal)
    assert [version.number for version in list_versions(store, "train")] == [2]
    assert present(store) == chunks_of(store, 2)
    assert len(read_back(store)) == 300


def test_planning_removes_nothing(two_versions: LocalStore, contents: Callable[..., Any]) -> None:
    before = contents(two_versions)
    plan_removal(two_versions, "train", 1)
    plan_removal(two_versions, "train")
    assert contents(two_versions) == before


def test_a_whole_dataset_goes_and_others_stay(
    many: Any, pack_small: Pack, two_versions: LocalStore, contents: Callable[..., Any]
) -> None:
    pack_small(many, name="val")
    two_versions.write("datasets/train/chunks/left-by-a-dead-upload.tar", b"orphan")
    removal = plan_removal(two_versions, "train")
    assert (len(removal.manifests), removal.kept_chunks) == (2, 0)
    remove(two_versions, removal)
    assert list_datasets(two_versions) == ["val"]
    assert all("/val/" in name or name == "benchkit.json" for name in contents(two_versions))


def test_manifests_go_before_chunks(two_versions: LocalStore) -> None:
    class Noted(LocalStore):
        def delete(self, name: str) -> None:
            deleted.append(name.split("/")[2])
            super().delete(name)

    deleted: list[str] = []
    store = Noted(two_versions.root)
    chunks = len(present(store))
    remove(store, plan_removal(store, "train"))
    assert deleted == ["versions"] * 2 + ["chunks"] * chunks


def test_what_a_young_intent_names_stays_and_an_old_one_does_not_count(two_versions: LocalStore) -> None:
    store = two_versions
    counted = sorted(chunks_of(store, 2))[:3]
    name = new_intent_name("train")
    store.write(name, encode_intent("train", counted))
    removal = plan_removal(store, "train")
    assert (removal.kept_chunks, removal.intents) == (3, ())
    assert not set(counted) & set(removal.chunks)
    old = time.time() - YOUNG_SECONDS - 60
    os.utime(store.root / name, (old, old))
    removal = plan_removal(store, "train")
    assert (removal.kept_chunks, removal.intents) == (0, (name,))
    remove(store, removal)
    assert list(store.list("datasets/train/")) == []


def test_an_intents_age_is_told_by_the_stores_clock(two_versions: LocalStore) -> None:
    class Slow(LocalStore):
        """A store whose clock is two days behind."""

        def stat(self, name: str) -> Any:
            return self._shift(super().stat(name))

        def list(self, prefix: str = "") -> Any:
            return map(self._shift, super().list(prefix))

        def _shift(self, info: Any) -> Any:
            return info and type(info)(
                name=info.name, size=info.size, modified=info.modified - 2 * YOUNG_SECONDS
            )

    store = Slow(two_versions.root)
    store.write(new_intent_name("train"), encode_intent("train", present(store)))
    assert plan_removal(store, "train").chunks == ()


def test_what_an_upload_that_began_after_the_plan_counts_on_stays(two_versions: LocalStore) -> None:
    removal = plan_removal(two_versions, "train")
    counted = sorted(removal.chunks)[:2]
    two_versions.write(new_intent_name("train"), encode_intent("train", counted))
    remove(two_versions, removal)
    assert present(two_versions) == set(counted)


def test_a_version_published_after_the_plan_keeps_its_chunks(
    many: Any, pack_small: Pack, two_versions: LocalStore, read_back: Callable[..., Any]
) -> None:
    removal = plan_removal(two_versions, "train")
    many.labels[299] = "third"
    pack_small(many)
    remove(two_versions, removal)
    assert [version.number for version in list_versions(two_versions, "train")] == [3]
    assert len(read_back(two_versions)) == 300


def test_the_same_version_published_again_while_it_is_removed_keeps_its_chunks(
    many: Any, pack_small: Pack, staging: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchkit.data.named._BATCH_CHUNKS", 1)
    pack_small(many)
    plain = LocalStore(tmp_path / "remote")
    first = upload(staging, plain, "train").version
    again: list[Version] = []

    class Raced(LocalStore):
        """An upload publishes what is removed once more, when the first chunk is already gone."""

        def delete(self, name: str) -> None:
            super().delete(name)
            if "/chunks/" in name and not again:
                again.append(upload(staging, plain, "train").version)

    raced = Raced(plain.root)
    remove(raced, plan_removal(raced, "train"))
    assert [version.object_name for version in again] == [first.object_name]
    assert verify(plain, "train", full=False).problems == ()


def test_an_upload_that_lost_chunks_to_a_removal_is_told(two_versions: LocalStore) -> None:
    class Raced(LocalStore):
        """An upload begins when the first chunk is already gone, and counts on it."""

        def delete(self, name: str) -> None:
            super().delete(name)
            if "/chunks/" in name and not list(self.list("datasets/train/uploads/")):
                self.write(new_intent_name("train"), encode_intent("train", [name]))

    store = Raced(two_versions.root)
    with pytest.raises(StoreError, match=r"began while chunks were removed, and counts on 1 of them.*--up"):
        remove(store, plan_removal(store, "train"))


def test_what_is_not_there_is_not_found(two_versions: LocalStore) -> None:
    with pytest.raises(NotFoundError, match="has no version 9; it has: 1, 2"):
        plan_removal(two_versions, "train", 9)
    with pytest.raises(NotFoundError, match="no dataset 'other'"):
        plan_removal(two_versions, "other")


def test_while_another_version_cannot_be_read_no_chunk_is_removed(
    two_versions: LocalStore, flip: Callable[..., None], contents: Callable[..., Any]
) -> None:
    store = two_versions
    flip(store.root / find_version(store, "train", number=2).object_name, 30)
    before = contents(store)
    with pytest.raises(CorruptError, match="which chunks train@2 needs is not known"):
        plan_removal(store, "train", 1)
    assert contents(store) == before
    removal = plan_removal(store, "train", 2)  # the broken one itself can go, its chunks stay
    assert removal.chunks == ()
    remove(store, removal)
    remove(store, plan_removal(store, "train"))
    assert present(store) == set()


def test_while_a_young_intent_cannot_be_read_no_chunk_is_removed(two_versions: LocalStore) -> None:
    two_versions.write(new_intent_name("train"), b'{"benchkit":"upload","format":2}')
    with pytest.raises(FormatError):
        plan_removal(two_versions, "train")


def test_removal_works_on_any_store(many: Any, pack_small: Pack, staging: LocalStore) -> None:
    pack_small(many)
    memory = MemoryStore()
    for info in staging.list():
        memory.write(info.name, Path(staging.root / info.name))
    remove(memory, plan_removal(memory, "train", 1))
    assert [info.name for info in memory.list()] == ["benchkit.json"]
