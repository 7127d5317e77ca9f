"""Cleaning takes what nothing counts on, and nothing else; least of all what an upload elsewhere is at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.s3_servers import Bucket

from benchkit.data.catalogue import find_version, list_versions, publish, read_manifest
from benchkit.data.clean import Cleaning, clean, plan_clean
from benchkit.data.intents import YOUNG_SECONDS, encode_intent, new_intent_name
from benchkit.data.journal import Journal
from benchkit.data.named import chunk_objects
from benchkit.data.pack import PackReport
from benchkit.data.remove import plan_removal, remove
from benchkit.data.upload import upload
from benchkit.data.verify import verify
from benchkit.errors import StoreError, UsageError
from benchkit.format import layout
from benchkit.format.manifest import Manifest, encode_manifest
from benchkit.settings import S3Settings
from benchkit.store.base import ObjectInfo, Store, Unfinished
from benchkit.store.local import LocalStore
from benchkit.store.memory import MemoryStore
from benchkit.store.urls import open_store

Pack = Callable[..., PackReport]
OLD = YOUNG_SECONDS + 60


def orphan(number: int, dataset: str = "train") -> str:
    return layout.chunk_name(dataset, f"{number:064x}", "none")


def age(store: LocalStore, name: str, seconds: float = OLD) -> None:
    then = time.time() - seconds
    os.utime(store.root / name, (then, then))


def kinds(plan: Cleaning) -> list[tuple[str, str]]:
    return [(left.kind, left.name) for left in plan.leftovers]


@pytest.fixture
def store(many: Any, pack_small: Pack, staging: LocalStore) -> LocalStore:
    """Return a store with a version and nothing else."""
    pack_small(many)
    return staging


def test_of_a_whole_store_nothing_is_cleaned(store: LocalStore, contents: Callable[..., Any]) -> None:
    before = contents(store)
    plan = plan_clean(store)
    assert (plan.leftovers, plan.left_alone, plan.unknown, plan.freed_bytes) == ((), {}, (), 0)
    assert clean(store, plan) == {}
    assert contents(store) == before


def test_an_empty_store_is_clean(staging: LocalStore) -> None:
    assert plan_clean(staging).leftovers == ()
    assert plan_clean(MemoryStore()).leftovers == ()


def test_chunks_that_nothing_names_are_listed_then_removed_and_all_others_stay(
    store: LocalStore, contents: Callable[..., Any]
) -> None:
    before = contents(store)
    for number in (1, 2):
        store.write(orphan(number), b"x" * 10)
    store.write(orphan(3, "val"), b"x")
    plan = plan_clean(store)
    assert kinds(plan) == [("chunk", orphan(1)), ("chunk", orphan(2)), ("chunk", orphan(3, "val"))]
    assert [left.dataset for left in plan.leftovers] == ["train", "train", "val"]
    assert plan.freed_bytes == 21
    assert all(0 <= plan.now - left.modified < 60 for left in plan.leftovers)
    assert contents(store).keys() > before.keys()
    clean(store, plan)
    assert contents(store) == before


def test_only_the_dataset_that_is_named_is_cleaned(store: LocalStore) -> None:
    for dataset in ("train", "val"):
        store.write(orphan(1, dataset), b"x")
    clean(store, plan_clean(store, dataset="val"))
    assert kinds(plan_clean(store)) == [("chunk", orphan(1))]


def test_what_a_young_intent_names_stays_and_an_old_intent_goes_with_its_chunks(store: LocalStore) -> None:
    store.write(orphan(1), b"x")
    name = new_intent_name("train")
    store.write(name, encode_intent("train", [orphan(1)]))
    assert plan_clean(store).leftovers == ()
    age(store, name)
    plan = plan_clean(store)
    assert kinds(plan) == [("chunk", orphan(1)), ("intent", name)]
    assert plan_clean(store, older_than_seconds=2 * OLD).leftovers == ()
    clean(store, plan)
    assert store.stat(name) is store.stat(orphan(1)) is None


def test_an_age_of_zero_takes_every_upload_for_dead(store: LocalStore) -> None:
    store.write(orphan(1), b"x")
    name = new_intent_name("train")
    store.write(name, encode_intent("train", [orphan(1)]))
    plan = plan_clean(store, older_than_seconds=0)
    assert kinds(plan) == [("chunk", orphan(1)), ("intent", name)]
    with pytest.raises(UsageError, match="-1 seconds is less than 0"):
        plan_clean(store, older_than_seconds=-1)


def test_an_intent_that_was_renewed_after_the_plan_stays_with_its_chunks(store: LocalStore) -> None:
    store.write(orphan(1), b"x")
    name = new_intent_name("train")
    store.write(name, encode_intent("train", [orphan(1)]))
    age(store, name)
    plan = plan_clean(store)
    store.write(name, encode_intent("train", [orphan(1)]))
    clean(store, plan)
    assert store.stat(name)
    assert store.stat(orphan(1))


def test_a_chunk_that_a_version_published_after_the_plan_names_stays(
    many: Any, pack_small: Pack, store: LocalStore, read_back: Callable[..., Any]
) -> None:
    manifest = read_manifest(store, version := find_version(store, "train"))
    store.delete(version.object_name)
    plan = plan_clean(store)
    assert {name for _, name in kinds(plan)} == chunk_objects(manifest)
    publish(store, manifest)
    clean(store, plan)
    assert len(read_back(store)) == 300


def test_an_upload_that_loses_chunks_while_they_are_removed_is_told(store: LocalStore) -> None:
    class Raced(LocalStore):
        def delete(self, name: str) -> None:
            super().delete(name)
            if "/chunks/" in name:
                self.write(new_intent_name("train"), encode_intent("train", [name]))

    raced = Raced(store.root)
    raced.write(orphan(1), b"x")
    with pytest.raises(StoreError, match=r"counts on 1 of them: upload it again"):
        clean(raced, plan_clean(raced))


def test_ages_are_told_by_the_stores_clock(store: LocalStore) -> None:
    class Slow(LocalStore):
        """A store whose clock is a week behind."""

        def stat(self, name: str) -> ObjectInfo | None:
            info = super().stat(name)
            return info and self._shift(info)

        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            return map(self._shift, super().list(prefix))

        def _shift(self, info: ObjectInfo) -> ObjectInfo:
            return ObjectInfo(name=info.name, size=info.size, modified=info.modified - 7 * YOUNG_SECONDS)

    slow = Slow(store.root)
    slow.write(orphan(1), b"x")
    slow.write(orphan(2), b"x")
    slow.write(new_intent_name("train"), encode_intent("train", [orphan(1)]))
    plan = plan_clean(slow)
    assert kinds(plan) == [("chunk", orphan(2))]
    assert plan.now - plan.leftovers[0].modified < 60


@pytest.mark.parametrize("unreadable", ["manifest", "intent"])
def test_while_something_cannot_be_read_that_datasets_chunks_stay_and_others_are_cleaned(
    many: Any, pack_small: Pack, store: LocalStore, unreadable: str
) -> None:
    pack_small(many, name="val")
    for dataset in ("train", "val"):
        store.write(orphan(1, dataset), b"x")
    name = find_version(store, "train").object_name
    if unreadable == "intent":
        name = new_intent_name("train")
    store.write(name, b"{}")
    plan = plan_clean(store)
    assert kinds(plan) == [("chunk", orphan(1, "val"))]
    [(dataset, why)] = plan.left_alone.items()
    assert dataset == "train"
    assert name.rpartition("/")[2][:12] in why or "which chunks train@1 needs is not known" in why
    clean(store, plan)
    assert store.stat(orphan(1))
    assert not store.stat(orphan(1, "val"))


def test_what_becomes_unreadable_after_the_plan_is_told_and_others_are_cleaned(store: LocalStore) -> None:
    for dataset in ("train", "val"):
        store.write(orphan(1, dataset), b"x")
    plan = plan_clean(store)
    store.write(find_version(store, "train").object_name, b"{}")
    assert list(clean(store, plan)) == ["train"]
    assert kinds(plan_clean(store)) == []
    assert store.stat(orphan(1))


def test_a_copy_that_a_killed_move_left_goes_and_both_versions_stay(staging: LocalStore) -> None:
    manifests = [Manifest(dataset="train", chunk_bytes=n, codec="auto", chunks=()) for n in (1, 2)]
    versions = [publish(staging, manifest)[0] for manifest in manifests]
    left = layout.version_name("train", 1, versions[1].digest)
    staging.write(left, encode_manifest(manifests[1]))
    before = list_versions(staging, "train")
    plan = plan_clean(staging)
    assert kinds(plan) == [("manifest", left)]
    clean(staging, plan)
    assert list_versions(staging, "train") == before
    assert len(list(staging.list("datasets/train/versions/"))) == 2


def test_a_copy_whose_other_was_deleted_after_the_plan_stays(staging: LocalStore) -> None:
    manifests = [Manifest(dataset="train", chunk_bytes=n, codec="auto", chunks=()) for n in (1, 2)]
    versions = [publish(staging, manifest)[0] for manifest in manifests]
    left = layout.version_name("train", 1, versions[1].digest)
    staging.write(left, encode_manifest(manifests[1]))
    plan = plan_clean(staging)
    staging.delete(versions[1].object_name)
    clean(staging, plan)
    assert staging.stat(left)


def test_a_manifest_that_lost_its_number_and_is_nowhere_else_stays_with_its_chunks(
    many: Any, pack_small: Pack, store: LocalStore
) -> None:
    many.labels[0] = "other"
    version = pack_small(many).version
    lost = layout.version_name("train", 1, version.digest)
    store.write(lost, store.read(version.object_name))
    store.delete(version.object_name)
    assert plan_clean(store).leftovers == ()
    assert store.stat(lost)


def test_foreign_objects_are_left_alone_and_told(store: LocalStore) -> None:
    foreign = ["datasets/.x/chunks/a", "datasets/train/chunks/a", "datasets/train/chunks/notes.txt"]
    foreign += ["datasets/train/uploads/a.json", "datasets/train/versions/1.json", "datasets/x"]
    for name in foreign:
        store.write(name, b"x")
        age(store, name)
    plan = plan_clean(store, older_than_seconds=0)
    assert plan.leftovers == ()
    assert sorted(plan.unknown) == sorted(foreign)
    clean(store, plan)
    assert all(store.stat(name) for name in foreign)


def test_the_temporary_files_of_dead_writers_go_whatever_their_age(store: LocalStore) -> None:
    (store.root / ".tmp" / "dead").write_bytes(b"data")
    with store.temporary() as alive:
        plan = plan_clean(store)
        assert kinds(plan) == [("unfinished", "dead")]
        assert plan.freed_bytes == 4
        clean(store, plan)
        assert alive.path.exists()
    assert not (store.root / ".tmp" / "dead").exists()


class Sweeping(MemoryStore):
    """A store with unfinished writes."""

    def __init__(self, *writes: Unfinished) -> None:
        super().__init__()
        self.writes = list(writes)

    def unfinished(self) -> Iterator[Unfinished]:
        yield from list(self.writes)

    def discard(self, unfinished: Unfinished) -> None:
        self.writes.remove(unfinished)


def test_an_unfinished_write_goes_when_it_is_old_by_the_stores_clock() -> None:
    old, young = (
        Unfinished(key=f"{seconds}", name=orphan(1), size=0, modified=time.time() - seconds)
        for seconds in (OLD, 60)
    )
    store = Sweeping(old, young)
    plan = plan_clean(store)
    assert [(left.kind, left.dataset, left.write) for left in plan.leftovers] == [
        ("unfinished", "train", old)
    ]
    clean(store, plan)
    assert store.writes == [young]
    clean(store, plan_clean(store, older_than_seconds=0, dataset="val"))
    assert store.writes == [young]
    clean(store, plan_clean(store, older_than_seconds=0))
    assert store.writes == []


def test_a_dataset_that_is_being_packed_is_left_alone(store: LocalStore, tmp_path: Path) -> None:
    journals = tmp_path / "journals"
    for dataset in ("train", "val"):
        store.write(orphan(1, dataset), b"x")
    everything = plan_clean(store, journals=journals)
    assert len(everything.leftovers) == 2
    with Journal(journals / "train.jsonl", "train"):
        plan = plan_clean(store, journals=journals)
        assert kinds(plan) == [("chunk", orphan(1, "val"))]
        assert "is being packed by another process" in plan.left_alone["train"]
        assert list(clean(store, everything)) == ["train"]
    assert store.stat(orphan(1))
    clean(store, plan_clean(store, journals=journals))
    assert not store.stat(orphan(1))


def test_packing_goes_on_after_its_finished_chunks_were_cleaned(
    many: Any, pack_small: Pack, staging: LocalStore, contents: Callable[..., Any]
) -> None:
    packed = pack_small(many)
    whole = contents(staging)
    staging.delete(packed.version.object_name)  # as if it had been killed before it published
    clean(staging, plan_clean(staging))
    assert list(staging.list("datasets/")) == []
    again = pack_small(many)
    assert (again.new, again.reused_chunks) == (True, 0)
    assert contents(staging) == whole


# Two machines: an upload that is held up in another process, while this one cleans or deletes.

UPLOADER = """
import sys
from pathlib import Path
from benchkit.data.upload import upload
from benchkit.settings import S3Settings
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_store

def tell(progress):
    print(progress.chunks, flush=True)
    sys.stdin.readline()

staging, remote, endpoint = sys.argv[1:]
s3 = S3Settings(endpoint_url=endpoint, addressing="path") if endpoint else None
report = upload(LocalStore(Path(staging)), open_store(remote, s3=s3), "train", workers=1, on_progress=tell)
print("sent", report.chunks_sent, flush=True)
"""


class Uploading:
    """An upload in a process of its own, which waits after every chunk to be told to go on."""

    def __init__(self, staging: LocalStore, remote: Store, endpoint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", UPLOADER, str(staging.root), remote.url, endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def await_chunks(self, count: int) -> None:
        """Return when so many chunks have been sent."""
        assert self.process.stdout
        assert self.process.stdin
        while self.process.stdout.readline().strip() != str(count):
            assert self.process.poll() is None
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def finish(self) -> int:
        """Let it go on to its end, and return how many chunks it sent."""
        out, _ = self.process.communicate("\n" * 1000, timeout=60)
        assert self.process.returncode == 0
        return int(out.split()[-1])


@contextlib.contextmanager
def uploading(staging: LocalStore, remote: Store, endpoint: str) -> Iterator[Uploading]:
    upload = Uploading(staging, remote, endpoint)
    try:
        yield upload
    finally:
        upload.process.kill()
        upload.process.communicate()


@pytest.fixture(params=["local", "swift"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, str]:
    """Return a remote store, and the endpoint it is at."""
    if request.param == "local":
        return LocalStore(tmp_path / "remote"), ""
    bucket: Bucket = request.getfixturevalue("swift_bucket")
    endpoint = bucket.server.endpoint
    return open_store(bucket.url, s3=S3Settings(endpoint_url=endpoint, addressing="path")), endpoint


@pytest.mark.processes
def test_what_an_upload_on_another_machine_counts_on_is_neither_cleaned_nor_deleted(
    many: Any, pack_small: Pack, staging: LocalStore, remote: tuple[Store, str]
) -> None:
    """It counts on chunks that it has sent, and on those of an older version, which is deleted."""
    store, endpoint = remote
    pack_small(many)
    upload(staging, store, "train")
    many.labels[0] = "other"
    packed = pack_small(many)
    manifest = read_manifest(staging, packed.version)
    shared = sorted(chunk_objects(manifest) & {info.name for info in store.list("datasets/train/chunks/")})
    assert len(shared) == packed.chunks - 1
    store.delete(shared[0])
    store.write(orphan(1), b"nothing counts on it")
    with uploading(staging, store, endpoint) as other:
        other.await_chunks(packed.chunks - 1)
        plan = plan_clean(store)
        assert kinds(plan) == [("chunk", orphan(1))]
        clean(store, plan)
        removal = plan_removal(store, "train")
        assert removal.kept_chunks >= packed.chunks - 1
        remove(store, removal)
        assert list_versions(store, "train") == []
        assert other.finish() == 2
    report = verify(store, "train", full=True)
    assert (report.problems, report.version.digest) == ((), packed.version.digest)
    assert plan_clean(store, older_than_seconds=0).leftovers == ()


@pytest.mark.processes
def test_an_upload_that_was_stopped_for_so_long_that_it_was_cleaned_sends_its_chunks_again(
    many: Any, pack_small: Pack, staging: LocalStore, remote: tuple[Store, str]
) -> None:
    store, endpoint = remote
    packed = pack_small(many)
    with uploading(staging, store, endpoint) as other:
        other.await_chunks(2)
        os.kill(other.process.pid, signal.SIGSTOP)
        plan = plan_clean(store, older_than_seconds=0)
        taken = [left.name for left in plan.leftovers if left.kind == "chunk"]
        assert len(taken) >= 2
        assert plan.leftovers[-1].kind == "intent"
        clean(store, plan)
        assert not any(store.stat(left.name) for left in plan.leftovers)
        os.kill(other.process.pid, signal.SIGCONT)
        assert other.finish() == packed.chunks + len(taken)
    report = verify(store, "train", full=True)
    assert (report.problems, report.version.digest) == ((), packed.version.digest)


@pytest.mark.processes
def test_what_a_killed_upload_left_is_cleaned_when_it_is_old(
    many: Any, pack_small: Pack, staging: LocalStore, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "remote")
    pack_small(many)
    with uploading(staging, store, "") as other:
        other.await_chunks(2)
    assert {left.kind for left in plan_clean(store).leftovers} <= {"unfinished"}
    [intent] = [info.name for info in store.list("datasets/train/uploads/")]
    age(store, intent)
    clean(store, plan_clean(store))
    assert [info.name for info in store.list()] == ["benchkit.json"]
