"""Verification finds every wrong byte, names what it is in, and does not stop at the first."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.making import add_sample

from benchkit.data.catalogue import find_version, publish, read_manifest
from benchkit.data.pack import PackReport
from benchkit.data.verify import VerifyProgress, verify
from benchkit.errors import NotFoundError, StoreError
from benchkit.format import layout
from benchkit.format.chunk import ChunkWriter
from benchkit.format.digests import digest_bytes
from benchkit.format.manifest import ChunkEntry, Manifest
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]


@pytest.fixture(params=["none", "zstd"])
def packed(request: pytest.FixtureRequest, many: Any, pack_small: Pack) -> PackReport:
    many.labels = [{"label": number, "array": np.arange(number % 5)} for number in range(300)]
    return pack_small(many, codec=request.param)


def first_chunk(store: LocalStore) -> tuple[ChunkEntry, Path]:
    manifest = read_manifest(store, find_version(store, "train"))
    return manifest.chunks[0], store.root / manifest.chunk_object(manifest.chunks[0])


@pytest.mark.parametrize("full", [False, True])
def test_a_good_version_has_no_problems(packed: PackReport, staging: LocalStore, full: bool) -> None:
    report = verify(staging, "train", full=full)
    assert report.problems == ()
    assert (report.version, report.full) == (packed.version, full)
    assert (report.chunks, report.samples, report.bytes) == (packed.chunks, 300, packed.stored_bytes)


def test_a_byte_flipped_anywhere_in_a_chunk_is_found_by_a_full_verification_alone(
    packed: PackReport, staging: LocalStore, flip: Callable[..., None]
) -> None:
    chunk, path = first_chunk(staging)
    size = chunk.stored_bytes
    places = [
        0,
        100,
        size // 3,
        chunk.index.offset - 1,
        chunk.index.offset,
        chunk.index.offset + 40,
        size - 1,
    ]
    for position in places:
        flip(path, position)
        assert verify(staging, "train", full=False).problems == ()
        [problem] = verify(staging, "train", full=True).problems
        assert path.name in problem
        assert "train@1" in problem
        assert "corrupt" in problem
        flip(path, position)
    assert verify(staging, "train", full=True).problems == ()


@pytest.mark.parametrize("full", [False, True])
def test_a_flipped_byte_in_the_manifest_is_found(
    packed: PackReport, staging: LocalStore, flip: Callable[..., None], full: bool
) -> None:
    flip(staging.root / packed.version.object_name, 50)
    [problem] = verify(staging, "train", full=full).problems
    assert "the manifest" in problem
    assert "corrupt" in problem


def test_a_flipped_byte_in_the_stores_marker_is_found(
    packed: PackReport, staging: LocalStore, flip: Callable[..., None]
) -> None:
    for position in range(len(layout.marker_bytes())):
        flip(staging.root / layout.MARKER_NAME, position)
        [problem] = verify(staging, "train", full=True).problems
        assert layout.MARKER_NAME in problem or staging.url in problem
        flip(staging.root / layout.MARKER_NAME, position)
    staging.delete(layout.MARKER_NAME)
    [problem] = verify(staging, "train", full=True).problems
    assert f"lacks {layout.MARKER_NAME}" in problem


@pytest.mark.parametrize("full", [False, True])
def test_all_problems_are_found_not_only_the_first(
    packed: PackReport, staging: LocalStore, full: bool
) -> None:
    manifest = read_manifest(staging, packed.version)
    names = [manifest.chunk_object(chunk) for chunk in manifest.chunks]
    staging.delete(names[0])
    staging.write(names[2], staging.read(names[2])[:-512])
    staging.write(names[3], b"")
    problems = verify(staging, "train", full=full).problems
    assert len(problems) == 3
    for problem, name, word in zip(
        problems, (names[0], names[2], names[3]), ("missing", "bytes", "0 bytes"), strict=True
    ):
        assert name.rpartition("/")[2] in problem
        assert word in problem


def test_a_chunk_whose_bytes_are_wrong_on_the_way_is_fetched_once_more(
    packed: PackReport, staging: LocalStore
) -> None:
    class Flipping(LocalStore):
        def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
            if layout.is_chunk_name(name):
                streamed.append(name)
            for block in super().stream(name, **part):
                right = name not in streamed or streamed.count(name) > flips
                yield block if right else block[:-1] + bytes([block[-1] ^ 1])

    store = Flipping(staging.root)
    flips, streamed = 1, list[str]()
    assert verify(store, "train", full=True).problems == ()
    assert len(streamed) == 2 * packed.chunks
    flips, streamed = 2, []
    assert len(verify(store, "train", full=True).damaged) == packed.chunks
    assert len(streamed) == 2 * packed.chunks


def test_damaged_chunks_are_told_and_those_whose_samples_alone_are_wrong_are_not(
    packed: PackReport, staging: LocalStore, flip: Callable[..., None]
) -> None:
    manifest = read_manifest(staging, packed.version)
    names = [manifest.chunk_object(chunk) for chunk in manifest.chunks]
    staging.delete(names[0])
    staging.write(names[1], b"")
    flip(staging.root / names[2], 700)
    assert verify(staging, "train", full=False).damaged == manifest.chunks[:2]
    assert verify(staging, "train", full=True).damaged == manifest.chunks[:3]


def test_two_chunks_swapped_are_found(packed: PackReport, staging: LocalStore) -> None:
    manifest = read_manifest(staging, packed.version)
    by_size = sorted(manifest.chunks, key=lambda chunk: chunk.stored_bytes)
    first, second = (manifest.chunk_object(chunk) for chunk in by_size[:2])
    left, right = staging.read(first), staging.read(second)
    staging.write(first, right)
    staging.write(second, left)
    assert len(verify(staging, "train", full=True).problems) == 2


def publish_chunk(store: LocalStore, entry: ChunkEntry, stored: bytes) -> None:
    store.write(layout.chunk_name("train", entry.stored, entry.codec), stored)
    store.write(layout.MARKER_NAME, layout.marker_bytes())
    publish(store, Manifest(dataset="train", chunk_bytes=1, codec="none", chunks=(entry,)))


def write_chunk(path: Path, samples: int) -> tuple[ChunkEntry, bytes]:
    with path.open("wb") as file:
        writer = ChunkWriter(file, codec="none")
        for number in range(samples):
            data = b"data %d" % number
            add_sample(writer, b"key-%d" % number, [(b"f.bin", data)], number)
        entry = writer.finish()
    return entry, path.read_bytes()


def with_digests(entry: ChunkEntry, stored: bytes, **index: Any) -> ChunkEntry:
    """Return the entry as a packer with a fault would have written it: digests right, contents wrong."""
    place = entry.index
    fields = {name: getattr(place, name) for name in place.__slots__} | index
    digest = digest_bytes(stored)
    own = {name: getattr(entry, name) for name in entry.__slots__}
    return ChunkEntry(**own | {"stored": digest, "tar": digest, "index": type(place)(**fields)})


def test_samples_that_do_not_match_their_index_are_each_named(tmp_path: Path, staging: LocalStore) -> None:
    entry, data = write_chunk(tmp_path / "chunk.tar", 5)
    data = data.replace(b"data 1", b"DATA 1").replace(b"data 3", b"DATA 3")
    publish_chunk(staging, with_digests(entry, data), data)
    report = verify(staging, "train", full=True)
    problems = report.problems
    assert len(problems) == 2
    assert report.damaged == ()
    assert all("'f.bin'" in problem and "checksum" in problem for problem in problems)


def test_an_index_that_is_not_the_manifests_is_found(tmp_path: Path, staging: LocalStore) -> None:
    entry, data = write_chunk(tmp_path / "chunk.tar", 5)
    publish_chunk(staging, with_digests(entry, data, digest="0" * 64), data)
    [problem] = verify(staging, "train", full=True).problems
    assert "the index of chunk" in problem


def test_dead_rows_are_not_read(tmp_path: Path, staging: LocalStore) -> None:
    entry, data = write_chunk(tmp_path / "chunk.tar", 5)
    data = data.replace(b"data 1", b"DATA 1")
    entry = with_digests(entry, data)
    own = {name: getattr(entry, name) for name in entry.__slots__}
    publish_chunk(staging, ChunkEntry(**own | {"dead": bytes([0b10])}), data)
    report = verify(staging, "train", full=True)
    assert (report.problems, report.samples) == ((), 4)


def test_a_version_is_verified_by_its_number(many: Any, pack_small: Pack, staging: LocalStore) -> None:
    pack_small(many)
    many.labels[0] = "other"
    second = pack_small(many)
    only_second = {name for name, _ in read_manifest(staging, second.version).objects()}
    only_second -= {
        name for name, _ in read_manifest(staging, find_version(staging, "train", number=1)).objects()
    }
    for name in only_second:
        staging.delete(name)
    assert verify(staging, "train", 1, full=True).problems == ()
    assert len(verify(staging, "train", 2, full=True).problems) == 1
    assert verify(staging, "train", full=False).version.number == 2


def test_what_is_not_there_is_not_found(staging: LocalStore) -> None:
    with pytest.raises(NotFoundError):
        verify(staging, "train", full=False)


def test_progress_ends_at_the_totals(packed: PackReport, staging: LocalStore) -> None:
    told: list[VerifyProgress] = []
    verify(staging, "train", full=True, on_progress=told.append)
    assert [step.chunks for step in told] == list(range(1, packed.chunks + 1))
    assert (told[-1].total_chunks, told[-1].bytes, told[-1].total_bytes) == (
        packed.chunks,
        packed.stored_bytes,
        packed.stored_bytes,
    )


def test_what_the_system_gives_in_parts_is_read_whole(
    packed: PackReport, staging: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives at most 2 GiB at once."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 300), offset))
    assert verify(staging, "train", full=True).problems == ()


def test_no_room_for_unpacking_is_told_with_the_folder(
    packed: PackReport, staging: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match=r"cannot be unpacked.*No space left.*set TMPDIR"):
        verify(staging, "train", full=True)
