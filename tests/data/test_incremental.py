"""Packing again: what has not changed is neither read nor written, and what is read back is what is there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.album import CHUNK_BYTES, Album, forget, keys_of, manifest_of, stored
from support.making import make_job

from benchkit.data import ProcessorDataset
from benchkit.data.catalogue import list_versions
from benchkit.data.compare import CompareJob, CompareTask, compare_chunk
from benchkit.data.pack import PackReport
from benchkit.data.samples import Samples
from benchkit.data.upload import upload
from benchkit.data.walk import WalkBuilder, walk_range
from benchkit.errors import LabelTypeError, SampleError
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]


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
    job = make_job(samples, staging, chunk_bytes=CHUNK_BYTES)
    builder = WalkBuilder(200)
    builder.add(walk_range(samples, range(200)))
    shared = CompareJob(job=job, walk=builder.finish(samples))
    task = CompareTask(number=3, chunk=manifest_of(staging).chunks[3], known=b"")
    shared, task = pickle.loads(pickle.dumps((shared, task)))  # noqa: S301
    chunk = pickle.loads(pickle.dumps(compare_chunk(shared, task)))  # noqa: S301
    assert (chunk.number, chunk.live, chunk.found) == (3, task.chunk.samples, task.chunk.samples)
    assert (chunk.entry, len(chunk.positions)) == (task.chunk, task.chunk.samples)
