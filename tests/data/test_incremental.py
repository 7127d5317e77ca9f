"""Packing again: what has not changed is neither read nor written, and what is read back is what is there."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.album import Album

from benchkit.data import ProcessorDataset
from benchkit.data.base import find_base
from benchkit.data.catalogue import find_version, list_versions, open_catalogue, publish, read_manifest
from benchkit.data.compare import CompareJob, CompareTask, compare_chunk
from benchkit.data.pack import JOURNAL_FOLDER, PackReport
from benchkit.data.samples import Samples
from benchkit.data.segments import PackJob
from benchkit.data.staged import find_index
from benchkit.data.upload import upload
from benchkit.data.walk import WalkBuilder, walk_range
from benchkit.errors import FormatError, LabelTypeError, SampleError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.format.layout import version_name
from benchkit.format.manifest import Manifest, manifest_digest
from benchkit.store.base import Store
from benchkit.store.layered import LayeredStore
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]
CHUNK_BYTES = 64 << 10


@pytest.fixture
def album(tmp_path: Path) -> Album:
    """Return an album of 200 files, about 9 chunks."""
    return Album(tmp_path / "album", files=200)


@pytest.fixture
def remote(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "remote")


@pytest.fixture
def repack(album: Album, pack_small: Pack) -> Pack:
    """Return a function that packs the album as it is now."""

    def run(**options: Any) -> PackReport:
        return pack_small(album.dataset, **{"chunk_bytes": CHUNK_BYTES} | options)

    return run


def manifest_of(store: Store, number: int | None = None) -> Manifest:
    return read_manifest(store, find_version(store, "train", number=number))


def stored(manifest: Manifest) -> list[str]:
    return [chunk.stored for chunk in manifest.chunks]


def keys_of(store: Store, manifest: Manifest, number: int) -> list[str]:
    """Return the keys of a chunk's rows."""
    chunk = manifest.chunks[number]
    index = find_index(store, None, "train", chunk)
    assert index
    return [index.key(row) for row in range(chunk.samples)]


def forget(tmp_path: Path) -> None:
    """Remove the journal, as on another machine."""
    shutil.rmtree(tmp_path / JOURNAL_FOLDER)


@pytest.mark.parametrize("seed", range(4))
def test_after_any_edits_what_is_read_back_is_what_is_there_and_little_is_read(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, read_back: Callable[..., Any], seed: int
) -> None:
    album.random.seed(seed)
    repack()
    before = album.contents
    for turn in range(6):
        old = manifest_of(staging)
        edited = album.edit(album.random.choice((1, 5, 40)))
        if turn == 3:
            forget(tmp_path)
        report = repack(workers=1 + turn % 3, checksum=turn == 4)
        now = album.contents
        assert read_back(staging) == now
        assert report.added == len(now.keys() - before.keys())
        assert report.removed == len(before.keys() - now.keys())
        assert report.changed == sum(now[key] != before[key] for key in now.keys() & before.keys())
        new = manifest_of(staging)
        assert report.dead_rows == sum(chunk.samples - chunk.live for chunk in new.chunks)
        packed = sum(chunk.live for chunk in new.chunks if chunk.stored not in stored(old))
        if turn not in (3, 4):
            compared = sum(album.size(name) for name in edited["change"] | edited["touch"])
            assert report.bytes_read <= compared + 2000 * packed
        before = now


def test_only_what_changed_is_read_and_written(
    album: Album, repack: Pack, staging: LocalStore, contents: Callable[..., Any]
) -> None:
    repack()
    first, before = manifest_of(staging), contents(staging)
    names = album.draw(4)
    album.change(names[0])
    album.change(names[1], size=50)
    album.labels[names[2]] = "another"
    album.remove(names[3])
    names[3] = album.add()
    report = repack()
    assert (report.added, report.changed, report.removed) == (1, 3, 1)
    second, after = manifest_of(staging), contents(staging)
    # The last chunk may be a small one, whose samples are packed with the new ones.
    again = [number for number, chunk in enumerate(first.chunks) if chunk.stored not in stored(second)]
    assert again in ([], [len(first.chunks) - 1])
    packed = {*names} | {key for number in again for key in keys_of(staging, first, number)}
    assert {*keys_of(staging, second, -1)} == packed & album.labels.keys()
    assert report.reused_chunks == report.chunks - 1 == len(first.chunks) - len(again)
    assert report.bytes_read == sum(map(album.size, packed & album.labels.keys())) + album.size(names[0])
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2  # a chunk and a manifest


def test_kept_chunks_keep_their_order_and_only_lose_rows(
    album: Album, repack: Pack, staging: LocalStore
) -> None:
    repack()
    first = manifest_of(staging)
    for name in album.draw(5):
        album.remove(name)
    report = repack()
    second = manifest_of(staging)
    assert stored(second) == stored(first)
    assert second.samples == 195
    assert report.dead_rows == 5
    assert (report.bytes_read, report.reused_chunks) == (0, len(first.chunks))


@pytest.mark.parametrize("how", ["journal", "no journal", "checksum", "touched"])
def test_nothing_changed_is_no_new_version(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, contents: Callable[..., Any], how: str
) -> None:
    repack()
    album.edit(20)
    second = repack()
    everything = sum(map(album.size, album.labels))
    before = contents(staging)
    if how == "no journal":
        forget(tmp_path)
    elif how == "touched":
        for name in album.labels:
            album.touch(name)
    again = repack(checksum=how == "checksum")
    assert (again.new, again.version, again.reused_chunks) == (False, second.version, second.chunks)
    assert (again.added, again.changed, again.removed) == (0, 0, 0)
    assert again.bytes_read == (0 if how == "journal" else everything)
    assert contents(staging) == before
    assert repack().bytes_read == 0


def test_on_another_machine_the_remote_is_built_on_and_new_chunks_alone_are_staged(
    tmp_path: Path,
    album: Album,
    repack: Pack,
    staging: LocalStore,
    remote: LocalStore,
    read_back: Callable[..., Any],
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    forget(tmp_path)
    other = LocalStore(tmp_path / "other")
    same = repack(staging=other, remote=remote)
    assert (same.new, same.version.number, same.reused_chunks) == (False, 1, same.chunks)
    assert list(other.list("datasets/train/chunks/")) == []

    album.edit(10)
    report = repack(staging=other, remote=remote)
    assert (report.new, report.version.number) == (True, 2)
    staged = {info.name.split("/")[-1].split(".")[0] for info in other.list("datasets/train/chunks/")}
    assert staged == set(stored(manifest_of(other))) - set(stored(manifest_of(remote)))
    assert len(staged) == report.chunks - report.reused_chunks < report.chunks
    assert read_back(LayeredStore(other, lambda: remote)) == album.contents

    sent = upload(other, remote, "train")
    assert (sent.version.number, sent.chunks_sent) == (2, len(staged))
    assert read_back(remote) == album.contents


def test_the_remotes_number_is_taken_over_so_that_numbers_agree(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    for _ in range(3):
        repack(remote=remote)
        upload(staging, remote, "train")
        album.change(album.draw(1)[0])
    other = LocalStore(tmp_path / "other")
    assert repack(staging=other, remote=remote).version.number == 4
    assert manifest_of(other, 3) == manifest_of(remote, 3)
    # Where staging has gone further by itself, numbers go their own ways.
    album.change(album.draw(1)[0])
    assert repack(staging=other, remote=remote).version.number == 5
    assert upload(other, remote, "train").version.number == 4
    assert repack(staging=other, remote=remote).new is False


def test_the_remotes_index_is_read_and_no_chunk_is(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    manifest = manifest_of(remote)
    for chunk in manifest.chunks:
        path = remote.root / manifest.chunk_object(chunk)
        with path.open("r+b") as file:  # what is not read may be anything
            file.write(bytes(chunk.index.offset))
    forget(tmp_path)
    again = repack(staging=LocalStore(tmp_path / "other"), remote=remote)
    assert (again.new, again.reused_chunks) == (False, again.chunks)


def test_any_number_of_workers_writes_the_same_bytes_again_and_again(
    tmp_path: Path, pack_small: Pack, contents: Callable[..., Any]
) -> None:
    written = []
    for workers in (1, 2, 5):
        project = tmp_path / str(workers)
        album, staging = Album(project / "album", files=150, seed=3), LocalStore(project / "staging")
        for edits in (0, 30, 3, 60):
            album.edit(edits)
            pack_small(
                album.dataset, staging=staging, project=project, workers=workers, chunk_bytes=CHUNK_BYTES
            )
        written.append(contents(staging))
    assert written[0] == written[1] == written[2]


def test_contents_that_change_with_neither_size_nor_time_are_found_by_checksum_alone(
    album: Album, repack: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    repack()
    before = album.contents
    name = album.draw(1)[0]
    time = os.stat(album.root / name).st_mtime_ns
    album.change(name)
    os.utime(album.root / name, ns=(time, time))
    assert repack().new is False
    assert read_back(staging) == before
    report = repack(checksum=True)
    assert (report.new, report.changed) == (True, 1)
    assert read_back(staging) == album.contents


def test_contents_that_change_with_neither_size_nor_time_are_found_in_a_first_version_too(
    album: Album, repack: Pack, read_back: Callable[..., Any], staging: LocalStore, remote: LocalStore
) -> None:
    """Where there is no version to build on, the journal's segments are compared."""
    repack(chunk_bytes=32 << 10)
    upload(staging, remote, "train")
    repack(remote=remote)  # other options: nothing to build on
    name = album.draw(1)[0]
    time = os.stat(album.root / name).st_mtime_ns
    album.change(name)
    os.utime(album.root / name, ns=(time, time))
    unseen = repack(remote=remote)
    assert (unseen.new, unseen.reused_chunks, unseen.bytes_read) == (False, unseen.chunks, 0)
    seen = repack(remote=remote, checksum=True)
    assert (seen.new, seen.reused_chunks) == (True, seen.chunks - 1)
    assert read_back(staging) == album.contents


def test_edits_that_are_taken_back_leave_the_remotes_version(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    first = repack(remote=remote)
    upload(staging, remote, "train")
    shutil.copytree(album.root, tmp_path / "copy")
    labels = dict(album.labels)
    for _ in range(3):
        album.edit(30)
        assert repack(remote=remote).new
    shutil.rmtree(album.root)
    shutil.copytree(tmp_path / "copy", album.root)
    album.labels = labels
    back = repack(remote=remote)
    assert (back.version.digest, back.added, back.changed, back.removed) == (first.version.digest, 0, 0, 0)
    assert back.bytes_read < sum(map(album.size, album.labels)) / 3  # what was touched meanwhile
    assert upload(staging, remote, "train").new is False


def test_drafts_that_were_not_uploaded_are_not_built_on(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore, read_back: Callable[..., Any]
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    base = set(stored(manifest_of(remote)))
    for _ in range(4):
        album.change(album.draw(1)[0])
        report = repack(remote=remote)
        new = set(stored(manifest_of(staging))) - base
        assert len(new) == 1
        assert report.dead_rows <= 4
    assert report.version.number == 5
    assert upload(staging, remote, "train").version.number == 2
    assert read_back(remote) == album.contents


def test_a_chunk_over_half_dead_is_packed_again_and_one_half_dead_is_kept(
    album: Album, repack: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    repack()
    first = manifest_of(staging)
    keys = keys_of(staging, first, 0)
    half = len(keys) // 2
    for key in keys[:half]:
        album.remove(key)
    repack()
    second = manifest_of(staging)
    assert stored(second) == stored(first)
    assert second.chunks[0].live == len(keys) - half

    for key in keys[half : half + 1 + len(keys) % 2]:
        album.remove(key)
    live = sum(map(album.size, album.labels.keys() & set(keys)))
    report = repack()
    third = manifest_of(staging)
    assert first.chunks[0].stored not in stored(third)
    assert report.bytes_read >= live
    assert read_back(staging) == album.contents


def test_a_chunk_without_live_rows_is_left_out(album: Album, repack: Pack, staging: LocalStore) -> None:
    repack()
    first = manifest_of(staging)
    for key in keys_of(staging, first, 2):
        album.remove(key)
    report = repack()
    assert stored(manifest_of(staging)) == [name for name in stored(first) if name != first.chunks[2].stored]
    assert report.bytes_read == 0


def test_left_over_chunks_do_not_pile_up(
    album: Album, repack: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    repack()
    for _ in range(15):
        album.add()
        album.change(album.draw(1)[0])
        repack()
        chunks = manifest_of(staging).chunks
        small = [chunk for chunk in chunks if 2 * chunk.tar_bytes < CHUNK_BYTES]
        assert len(small) <= 1
        assert len(chunks) <= 1 + 4 * sum(map(album.size, album.labels)) // CHUNK_BYTES
    assert read_back(staging) == album.contents


@pytest.mark.parametrize("options", [{"chunk_bytes": 32 << 10}, {"codec": "none"}])
def test_a_version_of_other_options_is_not_built_on(
    tmp_path: Path,
    album: Album,
    repack: Pack,
    staging: LocalStore,
    remote: LocalStore,
    options: dict[str, Any],
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    album.edit(20)
    report = repack(remote=remote, **options)
    assert (report.reused_chunks, report.added, report.dead_rows) == (0, len(album.labels), 0)
    fresh = repack(staging=LocalStore(tmp_path / "fresh"), project=tmp_path / "p", **options)
    assert report.version.digest == fresh.version.digest


@pytest.mark.parametrize("harm", ["missing", "short", "index"])
@pytest.mark.parametrize("edits", [0, 20])
def test_a_chunk_that_is_whole_nowhere_is_healed(
    tmp_path: Path,
    album: Album,
    repack: Pack,
    staging: LocalStore,
    remote: LocalStore,
    read_back: Callable[..., Any],
    flip: Callable[..., None],
    harm: str,
    edits: int,
) -> None:
    first = repack(remote=remote)
    upload(staging, remote, "train")
    manifest = manifest_of(remote)
    chunk = manifest.chunks[1]
    for store in (staging, remote):
        path = store.root / manifest.chunk_object(chunk)
        if harm == "missing":
            path.unlink()
        elif harm == "short":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            flip(path, chunk.index.offset + chunk.index.length // 2)
    album.edit(edits)
    report = repack(remote=remote)
    assert read_back(LayeredStore(staging, lambda: remote)) == album.contents
    if not edits:
        assert (report.new, report.version) == (False, first.version)
        assert (report.added, report.changed, report.removed) == (0, 0, 0)
        assert staging.stat(manifest.chunk_object(chunk))


@pytest.mark.parametrize("harm", ["short", "index"])
def test_a_staged_chunk_that_is_damaged_gives_way_to_the_remotes(
    album: Album,
    repack: Pack,
    staging: LocalStore,
    remote: LocalStore,
    read_back: Callable[..., Any],
    flip: Callable[..., None],
    harm: str,
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    manifest = manifest_of(remote)
    chunk = manifest.chunks[1]
    path = staging.root / manifest.chunk_object(chunk)
    if harm == "short":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        flip(path, chunk.index.offset + chunk.index.length // 2)
    report = repack(remote=remote)
    assert (report.new, report.bytes_read) == (False, 0)
    assert not path.exists()
    assert read_back(LayeredStore(staging, lambda: remote)) == album.contents


def test_a_damaged_newest_manifest_is_written_again(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore, flip: Callable[..., None]
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    album.edit(20)
    second = repack(remote=remote)
    upload(staging, remote, "train")
    for store in (remote, staging):
        flip(store.root / find_version(store, "train").object_name, 100)
    again = repack(remote=remote)
    assert (again.new, again.version.digest, again.version.number) == (False, second.version.digest, 2)
    assert upload(staging, remote, "train").new is False
    assert manifest_of(remote) == manifest_of(staging)


class Failing(LocalStore):
    """A folder in which some method fails from its n-th call on."""

    method: ClassVar[str]
    calls: ClassVar[int]

    def _count(self, method: str) -> None:
        if method == type(self).method:
            type(self).calls -= 1
            if type(self).calls < 0:
                raise StoreError("503 Service Unavailable")

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        self._count("read")
        return LocalStore.read(self, name, start=start, length=length)

    def stat(self, name: str) -> Any:
        self._count("stat")
        return LocalStore.stat(self, name)

    def list(self, prefix: str = "") -> Any:
        self._count("list")
        return LocalStore.list(self, prefix)


@pytest.mark.parametrize(
    ("method", "calls"), [("list", 0), ("stat", 0), ("read", 0), ("stat", 8), ("read", 6)]
)
def test_a_remote_that_fails_is_an_error_and_nothing_is_written_for_it(
    tmp_path: Path,
    album: Album,
    repack: Pack,
    staging: LocalStore,
    remote: LocalStore,
    method: str,
    calls: int,
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    other = LocalStore(tmp_path / "other")
    Failing.method, Failing.calls = method, calls
    with pytest.raises(StoreError, match="503"):
        repack(staging=other, remote=Failing(remote.root), workers=1)
    assert not list(other.list("datasets/train/chunks/"))


def test_without_the_remote_staging_is_built_on(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore, read_back: Callable[..., Any]
) -> None:
    first = repack(remote=remote)
    upload(staging, remote, "train")
    for number in range(2, 5):
        album.change(album.draw(1)[0])
        report = repack()
        assert (report.version.number, report.changed) == (number, 1)
        assert report.reused_chunks >= first.chunks - 1
    assert read_back(staging) == album.contents


def test_a_file_that_changes_while_it_is_compared_is_named(
    album: Album, repack: Pack, pack_small: Pack, staging: LocalStore, read_back: Callable[..., Any]
) -> None:
    class Growing(type(album.dataset)):  # type: ignore[misc]
        def get_label_and_numeric_data(self, item: int) -> Any:
            if self.names[item] == name:
                (self.root / name).unlink(missing_ok=True)
            return self.labels[item]

    repack()
    name = album.draw(1)[0]
    album.touch(name)
    data = (album.root / name).read_bytes()
    with pytest.raises(SampleError, match=rf"cannot read '{album.root}/{name}': No such file"):
        pack_small(Growing(album.root, album.labels), chunk_bytes=CHUNK_BYTES)
    assert len(list_versions(staging, "train")) == 1
    (album.root / name).write_bytes(data)
    assert repack().new is False


def test_what_was_compared_before_packing_failed_is_not_read_again(
    album: Album, repack: Pack, staging: LocalStore
) -> None:
    repack()
    for name in album.labels:
        album.touch(name)
    album.labels[album.add()] = object()
    with pytest.raises(LabelTypeError):
        repack()
    album.labels[max(album.labels)] = 1
    first, report = manifest_of(staging), repack()
    second = manifest_of(staging)
    packed = {
        key
        for number, chunk in enumerate(second.chunks)
        if chunk.stored not in stored(first)
        for key in keys_of(staging, second, number)
    }
    assert report.bytes_read == sum(map(album.size, packed)) < sum(map(album.size, album.labels)) / 3


class Named(ProcessorDataset):
    """Twenty samples without files, and one whose key says nothing of its files."""

    def __init__(self, files: list[Path], label: Any) -> None:
        self.files = files
        self.label = label

    def __len__(self) -> int:
        return 21

    def get_file(self, item: int) -> list[str]:
        return [str(path) for path in self.files] if item == 7 else []

    def get_label_and_numeric_data(self, item: int) -> Any:
        return self.label if item == 7 else item

    def get_key(self, item: int) -> str:
        return f"sample {item}"


@pytest.mark.parametrize(
    ("files", "label", "changed"),
    [
        (["a/x", "a/y"], {"n": 1}, False),
        (["b/x", "a/y"], {"n": 1}, False),  # elsewhere, of the same name and contents
        (["a/y", "a/x"], {"n": 1}, True),
        (["a/z", "a/y"], {"n": 1}, True),  # of another name
        (["a/x"], {"n": 1}, True),
        (["a/x", "a/y", "a/y"], {"n": 1}, True),
        ([], {"n": 1}, True),
        (["a/x", "a/y"], {"n": True}, True),
        (["a/x", "a/y"], {"n": np.int64(1)}, True),
        (["a/x", "a/y"], {"n": np.ones(1)}, True),
    ],
)
def test_a_sample_is_changed_where_a_reader_would_see_it(
    tmp_path: Path,
    pack_small: Pack,
    staging: LocalStore,
    read_back: Callable[..., Any],
    files: list[str],
    label: Any,
    changed: bool,
) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        for name, data in (("x", b"same size 1"), ("y", b"same size 2"), ("z", b"same size 1")):
            (folder / name).write_bytes(data)
    pack_small(Named([tmp_path / "a/x", tmp_path / "a/y"], {"n": 1}))
    paths = [tmp_path / name for name in files]
    report = pack_small(Named(paths, label))
    assert (report.new, report.changed, report.added, report.removed) == (changed, changed, 0, 0)
    found, found_files = read_back(staging)["sample 7"]
    assert type(found["n"]) is type(label["n"])
    assert found_files == [(path.name, path.read_bytes()) for path in paths]


def test_what_workers_get_and_give_can_be_pickled(album: Album, repack: Pack, staging: LocalStore) -> None:
    """Where processes are spawned, the walk and the tasks travel as pickles."""
    repack()
    samples = Samples.of(album.dataset, album.root)
    job = PackJob(
        samples=samples,
        name="train",
        staging=staging,
        remote=None,
        chunk_bytes=CHUNK_BYTES,
        codec="auto",
        checksum=False,
    )
    builder = WalkBuilder(200)
    builder.add(walk_range(samples, range(200)))
    shared = CompareJob(job=job, walk=builder.finish(samples))
    task = CompareTask(number=3, chunk=manifest_of(staging).chunks[3], known=b"")
    shared, task = pickle.loads(pickle.dumps((shared, task)))  # noqa: S301
    chunk = pickle.loads(pickle.dumps(compare_chunk(shared, task)))  # noqa: S301
    assert (chunk.number, chunk.live, chunk.found) == (3, task.chunk.samples, task.chunk.samples)
    assert (chunk.entry, len(chunk.positions)) == (task.chunk, task.chunk.samples)


class Flipping(LocalStore):
    """A folder whose first ranged reading of every object has a wrong byte."""

    flipped: ClassVar[set[str]] = set()

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        data = LocalStore.read(self, name, start=start, length=length)
        if start and name not in self.flipped:
            self.flipped.add(name)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


def test_wrong_bytes_of_an_index_are_read_once_more(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    again = repack(staging=LocalStore(tmp_path / "other"), remote=Flipping(remote.root))
    assert (again.new, again.reused_chunks) == (False, again.chunks)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_base_that_has_a_sample_twice_is_not_built_on(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, workers: int
) -> None:
    whole = repack()
    chunks = manifest_of(staging).chunks
    publish(
        staging,
        Manifest(dataset="train", chunk_bytes=CHUNK_BYTES, codec="auto", chunks=(*chunks, chunks[2])),
    )
    report = repack(workers=workers)
    assert report.version.digest == whole.version.digest
    assert report.samples == manifest_of(staging).samples


@pytest.mark.parametrize("harm", ["keys", "kinds", "members", "no index"])
def test_a_base_whose_index_lies_gives_no_wrong_sample(
    tmp_path: Path, album: Album, repack: Pack, staging: LocalStore, read_back: Callable[..., Any], harm: str
) -> None:
    """An index with the digest that the manifest names, but with other contents than packing writes."""
    repack(codec="none")
    manifest = manifest_of(staging)
    chunk = manifest.chunks[1]
    index = find_index(staging, None, "train", chunk)
    assert index
    data = bytearray(staging.read(manifest.chunk_object(chunk)))
    start, length = chunk.index.offset, chunk.index.length
    told = bytes(data[start : start + length])
    if harm == "keys":  # two samples change places
        one, two = index.key(0).encode(), index.key(1).encode()
        told = told.replace(one + two, two + one)
    elif harm == "kinds":
        told = told.replace(b'\\"cls\\"', b'\\"int\\"')
    elif harm == "members":
        first = index.member_offset[:2].astype("<u4").tobytes()
        told = told.replace(first, b"\xff" * 8)
    else:
        told = bytes(length)
    assert told != bytes(data[start : start + length])
    assert len(told) == length
    data[start : start + length] = told
    digest = digest_bytes(data)
    place = replace(chunk.index, digest=digest_bytes(told))
    lying = replace(chunk, stored=digest, tar=digest, index=place)
    chunks = tuple(lying if entry is chunk else entry for entry in manifest.chunks)
    staging.write(manifest.chunk_object(lying), bytes(data))
    publish(staging, replace(manifest, chunks=chunks))

    report = repack(codec="none")
    assert report.new
    assert read_back(staging) == album.contents


def test_a_version_of_a_newer_format_is_not_built_on(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    newest = find_version(remote, "train")
    data = remote.read(newest.object_name).replace(b'"format":1', b'"format":2')
    remote.write(version_name("train", 2, manifest_digest(data)), data)
    with pytest.raises(FormatError, match="upgrade benchkit"):
        repack(remote=remote)


def test_the_base_is_the_remotes_newest_version_that_can_be_read(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    def find(store: Store | None) -> int | None:
        base = find_base(staging, store, "train", chunk_bytes=CHUNK_BYTES, codec="auto")
        return base.version.number if base else None

    open_catalogue(staging, create=True)
    assert find(None) is None
    assert find(remote) is None
    repack()
    assert find(None) == find(remote) == 1
    upload(staging, remote, "train")
    album.edit(5)
    repack()
    assert find(None) == 2
    assert find(remote) == 1
    upload(staging, remote, "train")
    assert find(remote) == 2
    remote.write(find_version(remote, "train").object_name, b"{}")
    assert find(remote) == 1
    assert find_base(staging, remote, "train", chunk_bytes=CHUNK_BYTES, codec="zstd") is None
    assert find_base(staging, remote, "train", chunk_bytes=1, codec="auto") is None
