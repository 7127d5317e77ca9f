"""The version that packing builds on: found, on any machine; damaged, lying or silent, it does no harm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zstandard
from support.album import CHUNK_BYTES, Album, forget, keys_of, manifest_of, stored

from benchkit.data.base import find_base
from benchkit.data.catalogue import find_version, open_catalogue, publish
from benchkit.data.pack import PackReport
from benchkit.data.staged import find_index
from benchkit.data.upload import upload
from benchkit.errors import FormatError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.format.layout import chunk_name, version_name
from benchkit.format.manifest import Manifest, manifest_digest
from benchkit.store.base import Store
from benchkit.store.layered import LayeredStore
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]


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


def test_a_draft_is_packed_again_without_reading(
    album: Album, repack: Pack, staging: LocalStore, remote: LocalStore
) -> None:
    repack(remote=remote)
    upload(staging, remote, "train")
    keys = keys_of(staging, manifest_of(staging), 0)
    for key in keys[: len(keys) * 2 // 3]:
        album.remove(key)
    draft = repack(remote=remote)
    assert draft.reused_chunks < draft.chunks
    again = repack(remote=remote)
    assert (again.new, again.bytes_read, again.reused_chunks) == (False, 0, again.chunks)


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
    first = repack(remote=remote, codec="none")
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
    report = repack(remote=remote, codec="none")
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


def test_an_index_that_claims_to_be_huge_is_none(repack: Pack, staging: LocalStore) -> None:
    repack(codec="zstd")
    chunk = manifest_of(staging).chunks[0]
    frame = bytes.fromhex("28b52ffde0") + (1 << 50).to_bytes(8, "little") + bytes.fromhex("010000")
    assert zstandard.frame_content_size(frame) == 1 << 50
    place = replace(chunk.index, length=len(frame), tar_length=1 << 50)
    path = staging.root / chunk_name("train", chunk.stored, chunk.codec)
    with path.open("r+b") as file:
        file.seek(place.offset)
        file.write(frame)
    assert find_index(staging, None, "train", replace(chunk, index=place)) is None
