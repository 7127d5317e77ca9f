"""The catalogue: every publisher ends with a version of its own, and none is lost."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchkit.data.catalogue import (
    find_version,
    list_datasets,
    list_summaries,
    list_versions,
    open_catalogue,
    parse_label,
    publish,
    read_manifest,
)
from benchkit.errors import CorruptError, FormatError, NotFoundError, StoreError, UsageError
from benchkit.format.layout import MARKER_NAME, MAX_NUMBER, version_name, versions_prefix
from benchkit.format.manifest import Manifest, encode_manifest, manifest_digest
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore
from benchkit.store.numbered import publish_numbered


def manifest(chunk_bytes: int, dataset: str = "train") -> Manifest:
    return Manifest(dataset=dataset, chunk_bytes=chunk_bytes, codec="auto", chunks=())


def digest_of(chunk_bytes: int) -> str:
    return manifest_digest(encode_manifest(manifest(chunk_bytes)))


def numbers(store: Store) -> dict[int, str]:
    return {version.number: version.digest for version in list_versions(store, "train")}


def test_versions_are_numbered_from_one(staging: LocalStore) -> None:
    for number in (1, 2, 3):
        version, new = publish(staging, manifest(number))
        assert (version.number, version.label, new) == (number, f"train@{number}", True)
    assert numbers(staging) == {number: digest_of(number) for number in (1, 2, 3)}
    assert read_manifest(staging, find_version(staging, "train", number=2)) == manifest(2)


def test_what_the_newest_version_says_is_not_published_again(staging: LocalStore) -> None:
    publish(staging, manifest(1))
    assert publish(staging, manifest(1))[1] is False
    publish(staging, manifest(2))
    version, new = publish(staging, manifest(1))
    assert (version.number, new) == (3, True)
    assert find_version(staging, "train", digest=digest_of(1)).number == 3


@pytest.mark.parametrize("first", [1, 2])
def test_two_publishers_of_one_number_both_have_a_version(first: int) -> None:
    """The other's put comes in between this one's look and its own put."""
    other = manifest(3 - first)

    class Raced(MemoryStore):
        def write(self, name: str, source: bytes | Path) -> None:
            if "/versions/1-" in name and not self.stat(version_name("train", 1, digest_of(3 - first))):
                data = encode_manifest(other)
                super().write(version_name("train", 1, manifest_digest(data)), data)
            super().write(name, source)

    store = Raced()
    version, new = publish(store, manifest(first))
    assert new
    assert numbers(store) == {1: digest_of(3 - first), 2: digest_of(first)}
    assert version.digest == digest_of(first)
    assert read_manifest(store, version) == manifest(first)


def test_behind_the_last_number_nothing_is_published_and_that_is_told(staging: LocalStore) -> None:
    staging.write(version_name("train", MAX_NUMBER, "0" * 64), b"1")
    with pytest.raises(StoreError, match=r"numbered 999999999, behind which no number is left"):
        publish_numbered(staging, versions_prefix("train"), b"2")
    assert len(list(staging.list())) == 1


def test_a_loser_is_moved_by_whoever_publishes_next(staging: LocalStore) -> None:
    """Its own publisher was killed after its put."""
    for chunk_bytes in (1, 2, 3):
        staging.write(
            version_name("train", 1, digest_of(chunk_bytes)), encode_manifest(manifest(chunk_bytes))
        )
    publish(staging, manifest(4))
    assert sorted(numbers(staging).values()) == sorted(map(digest_of, (1, 2, 3, 4)))
    assert len(list(staging.list("datasets/train/versions/"))) == 4


def test_a_loser_that_was_moved_but_not_removed_is_not_moved_again(staging: LocalStore) -> None:
    for number, chunk_bytes in ((1, 1), (1, 2), (2, 2)):
        staging.write(
            version_name("train", number, digest_of(chunk_bytes)), encode_manifest(manifest(chunk_bytes))
        )
    os.utime(staging.root / version_name("train", 1, digest_of(1)), (1, 1))
    publish(staging, manifest(3))
    assert numbers(staging) == {1: digest_of(1), 2: digest_of(2), 3: digest_of(3)}


def test_of_manifests_of_one_number_and_time_the_smaller_digest_is_the_version(staging: LocalStore) -> None:
    for chunk_bytes in (1, 2, 3):
        name = version_name("train", 1, digest_of(chunk_bytes))
        staging.write(name, encode_manifest(manifest(chunk_bytes)))
        os.utime(staging.root / name, (7, 7))
    assert numbers(staging) == {1: min(map(digest_of, (1, 2, 3)))}


def test_a_manifest_whose_bytes_were_wrong_on_the_way_is_read_once_more() -> None:
    class Flipping(MemoryStore):
        flips = 0

        def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
            data = b"".join(super().stream(name, **part))
            if self.flips:
                self.flips -= 1
                data = data[:-1] + b"?"
            yield data

    store = Flipping()
    version, _ = publish(store, manifest(1))
    store.flips = 1
    assert read_manifest(store, version) == manifest(1)
    store.flips = 2
    with pytest.raises(CorruptError):
        read_manifest(store, version)


def test_a_version_is_looked_up_by_one_request_each_for_marker_list_and_manifest() -> None:
    asked = []

    class Asked(MemoryStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("read", "stat", "list", "stream"):
                asked.append(name)
            return super().__getattribute__(name)

    store = Asked()
    open_catalogue(store, create=True)
    publish(store, manifest(1))
    asked.clear()
    open_catalogue(store)
    assert read_manifest(store, find_version(store, "train")) == manifest(1)
    assert asked == ["read", "list", "stream"]


def test_a_manifest_that_is_too_large_is_read_no_further() -> None:
    class Endless(MemoryStore):
        def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
            while True:
                yield bytes(64 << 20)

    store = Endless()
    version, _ = publish(store, manifest(1))
    with pytest.raises(FormatError, match="bytes; at most"):
        read_manifest(store, version)


def test_a_version_that_cannot_be_read_has_a_summary_that_says_why(staging: LocalStore) -> None:
    for chunk_bytes in (1, 2):
        version, _ = publish(staging, manifest(chunk_bytes))
    staging.write(version.object_name, b"{}")
    whole, unreadable = list_summaries(staging)
    assert (whole.version.number, whole.error) == (1, "")
    assert (unreadable.version.number, unreadable.chunks) == (2, 0)
    assert "is corrupt" in unreadable.error


def test_an_older_version_of_the_same_manifest_is_not_taken_for_the_new_one() -> None:
    """A listing in several parts can miss an object that is being moved."""

    class Missing(MemoryStore):
        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            for info in super().list(prefix):
                if "/versions/3-" in info.name and self.misses:
                    self.misses -= 1
                else:
                    yield info

        misses = 1

    store = Missing()
    for chunk_bytes in (1, 2, 1):
        version, new = publish(store, manifest(chunk_bytes))
    assert (version.number, new, store.misses) == (3, True, 0)


def test_publishing_again_mends_a_newest_manifest_that_was_damaged(staging: LocalStore) -> None:
    version, _ = publish(staging, manifest(1))
    path = staging.root / version.object_name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(CorruptError):
        read_manifest(staging, version)
    mended, new = publish(staging, manifest(1))
    assert (mended.number, new) == (1, False)
    assert read_manifest(staging, version) == manifest(1)


def _publish_many(root: str, first: int, count: int) -> None:
    for chunk_bytes in range(first, first + count):
        version, new = publish(LocalStore(Path(root)), manifest(chunk_bytes))
        assert new
        assert version.digest == digest_of(chunk_bytes)


@pytest.mark.processes
def test_publishers_at_once_all_have_versions_and_none_is_lost(staging: LocalStore) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_publish_many, args=(str(staging.root), first, 10))
        for first in (100, 200, 300)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    wanted = {digest_of(first + n) for first, n in itertools.product((100, 200, 300), range(10))}
    assert set(numbers(staging).values()) == wanted
    # Where three publish, two of them who move one loser at the same moment may give it two numbers.
    assert len(list(staging.list("datasets/train/versions/"))) == len(numbers(staging)) >= 30


def test_a_version_is_found_by_number_digest_or_as_the_newest(staging: LocalStore) -> None:
    for chunk_bytes in (1, 2):
        publish(staging, manifest(chunk_bytes))
    assert find_version(staging, "train").number == 2
    assert find_version(staging, "train", digest=digest_of(1)).number == 1
    with pytest.raises(NotFoundError, match="has no version 3; it has: 1, 2"):
        find_version(staging, "train", number=3)
    with pytest.raises(NotFoundError, match="has no version with the manifest abc"):
        find_version(staging, "train", digest="abc")


def test_an_unknown_dataset_is_an_error_naming_the_known_ones(staging: LocalStore) -> None:
    for name in ("val", "train"):
        publish(staging, manifest(1, name))
    assert list_datasets(staging) == ["train", "val"]
    with pytest.raises(NotFoundError, match=r"no dataset 'test' .*it holds: train, val.*migrate-data"):
        find_version(staging, "test")


def test_what_is_no_manifest_by_its_name_is_no_version(staging: LocalStore) -> None:
    for name in (
        "1.json",
        f"0-{'a' * 64}.json",
        f"01-{'a' * 64}.json",
        f"1-{'A' * 64}.json",
        f"1-{'a' * 63}.json",
    ):
        staging.write(f"datasets/train/versions/{name}", b"{}")
    assert list_versions(staging, "train") == []
    assert list_datasets(staging) == []


def test_a_manifest_with_a_flipped_byte_is_corrupt(staging: LocalStore) -> None:
    version, _ = publish(staging, manifest(1))
    data = bytearray(staging.read(version.object_name))
    for position in range(0, len(data), 7):
        data[position] ^= 1
        staging.write(version.object_name, bytes(data))
        with pytest.raises(CorruptError, match="train"):
            read_manifest(staging, version)
        data[position] ^= 1


@pytest.mark.parametrize(
    ("label", "parsed"),
    [("train", ("train", None)), ("train@1", ("train", 1)), ("a.b-c_d@12", ("a.b-c_d", 12))],
)
def test_a_label_is_a_name_with_or_without_a_number(label: str, parsed: tuple[str, int | None]) -> None:
    assert parse_label(label) == parsed


@pytest.mark.parametrize("label", ["train@", "train@0", "train@-1", "train@x", "train@1@2", "train@²"])
def test_a_number_that_is_none_is_refused(label: str) -> None:
    with pytest.raises(UsageError, match="no version number"):
        parse_label(label)


@pytest.mark.parametrize("label", ["", "@1", "../train@1", ".x"])
def test_a_name_that_is_none_is_refused(label: str) -> None:
    with pytest.raises(UsageError):
        parse_label(label)


@pytest.mark.parametrize("data", [b"", b"x", b" " * 5000])
def test_a_damaged_mark_is_told_with_what_to_do(staging: LocalStore, data: bytes) -> None:
    staging.write(MARKER_NAME, data)
    with pytest.raises(
        FormatError, match=r"benchkit.json of file://.* is damaged .*: remove it, and migrate"
    ):
        open_catalogue(staging)


def test_a_store_is_marked_once_and_a_strange_or_newer_one_is_refused(staging: LocalStore) -> None:
    open_catalogue(staging)
    assert staging.stat(MARKER_NAME) is None
    open_catalogue(staging, create=True)
    written = staging.stat(MARKER_NAME)
    open_catalogue(staging, create=True)
    assert staging.stat(MARKER_NAME) == written
    for data in (
        b'{"benchkit":"store","format":2}',
        b"[]",
        b"{}",
        b'{"benchkit":"other","format":1}',
        b"\xff",
    ):
        staging.write(MARKER_NAME, data)
        with pytest.raises(FormatError):
            open_catalogue(staging, create=True)
