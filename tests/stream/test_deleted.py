"""A version that is deleted under a running job: what is in the cache is read, then the error says so."""

from __future__ import annotations

import pytest
from support.making import publish_samples

from benchkit import IterableChunk, get_dataset
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.data.remove import plan_removal, remove
from benchkit.errors import CorruptError, NotFoundError
from benchkit.store.local import LocalStore


class Labels(IterableChunk):
    def _data_iterator(self):
        for label, _ in super()._data_iterator():
            yield label


@pytest.fixture
def store(project, monkeypatch):
    """Return the project's store, with versions of 600 and of 300 other samples, beside a small cache."""
    version = publish_samples(project, "numbers", 600, per_chunk=10)
    publish_samples(project, "numbers", 300, per_chunk=5, size=150)
    store = LocalStore(project / "store")
    largest = max(chunk.tar_bytes for chunk in read_manifest(store, version).chunks)
    monkeypatch.setenv("BENCHKIT_CACHE_LIMIT_BYTES", str(20 * largest))
    return store


def begin(workers, version):
    batches = iter(get_dataset(Labels, True, "numbers", 10, workers, version=version, open_chunks=1))
    return batches, [next(batches)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_version_deleted_while_it_is_read_is_told_with_the_newer_ones(store, workers):
    batches, got = begin(workers, 1)
    remove(store, plan_removal(store, "numbers", 1))
    with pytest.raises(
        NotFoundError,
        match=r"numbers@1 was deleted from file://.* while it was read; newer versions: numbers@2",
    ):
        got += list(batches)
    assert 1 <= len(got) < 60


def test_where_the_whole_dataset_is_gone_there_are_no_newer_versions(store):
    batches, _ = begin(0, None)
    remove(store, plan_removal(store, "numbers"))
    with pytest.raises(NotFoundError, match=r"numbers@2 was deleted .* newer versions: none"):
        list(batches)


def test_a_chunk_that_is_missing_from_a_version_that_is_there_is_corruption(store):
    batches, _ = begin(0, 1)
    for info in list(store.list("datasets/numbers/chunks/")):
        store.delete(info.name)
    with pytest.raises(CorruptError, match="is missing from"):
        list(batches)


def test_a_version_that_was_published_again_under_another_number_counts_as_there(store):
    version = find_version(store, "numbers", number=1)
    batches, _ = begin(0, 1)
    moved = version.object_name.replace("/1-", "/3-")
    store.write(moved, store.read(version.object_name))
    store.delete(version.object_name)
    for info in list(store.list("datasets/numbers/chunks/")):
        store.delete(info.name)
    with pytest.raises(CorruptError, match="is missing from"):
        list(batches)


def test_what_the_machine_has_is_read_to_its_end(store, monkeypatch):
    monkeypatch.delenv("BENCHKIT_CACHE_LIMIT_BYTES")
    loader = get_dataset(Labels, True, "numbers", 10, 0, version=1)
    first = [batch.tolist() for batch in loader]
    remove(store, plan_removal(store, "numbers", 1))
    assert [batch.tolist() for batch in loader] == first
