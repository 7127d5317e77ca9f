"""Laws of a fetch: the right bytes or an error, within the manifest's size."""

import io
import os
import resource
import struct

import pytest
import zstandard

from benchkit.errors import CorruptError, StoreError
from benchkit.stream.fetch import fetch_tar

TAR = os.urandom(150_000) + bytes(150_000)
CODECS = pytest.mark.parametrize("codec", ["none", "zstd"])


@pytest.fixture
def target(tmp_path):
    with (tmp_path / "target").open("w+b", buffering=0) as file:
        yield file


def fetch(item, store, target):
    fetch_tar(store, item.name, item.chunk, target.fileno(), what=item.what)
    target.seek(0)
    return target.read()


@CODECS
@pytest.mark.parametrize("block_bytes", [1 << 20, 4096, 1])
def test_a_fetch_gives_the_plain_tar_whatever_the_blocks(shop, target, codec, block_bytes):
    tar = TAR if block_bytes > 1 else TAR[149_000:151_000]
    item = shop.add(tar, codec=codec)
    assert fetch(item, shop.slow(0, block_bytes), target) == tar
    assert shop.store.fetches() == [item.name]


def test_frames_of_all_kinds_make_one_tar(shop, target):
    compressor = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True)
    skipped = struct.pack("<II", 0x184D2A50, 3) + b"any"
    frames = [compressor.compress(TAR[:1]), skipped, compressor.compress(b""), compressor.compress(TAR[1:])]
    item = shop.restock(shop.add(TAR, codec="zstd"), b"".join(frames))
    assert fetch(item, shop.store, target) == TAR


def flip(data, where):
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


@CODECS
@pytest.mark.parametrize(
    "damage",
    [
        lambda right: flip(right, 0),
        lambda right: flip(right, len(right) // 2),
        lambda right: flip(right, len(right) - 1),
        lambda right: b"",
        lambda right: right[: len(right) // 2],
        lambda right: right[:-1],
        lambda right: right + b"x",
        lambda right: right + right,
        lambda right: os.urandom(len(right)),
    ],
    ids=["first", "middle", "last", "empty", "half", "short", "long", "twice", "swapped"],
)
def test_wrong_bytes_are_fetched_again_and_then_an_error_that_says_what_to_do(shop, target, codec, damage):
    item = shop.add(TAR, codec=codec)
    shop.store.write(item.name, damage(shop.store.read(item.name)))
    with pytest.raises(CorruptError) as caught:
        fetch(item, shop.store, target)
    message = str(caught.value)
    assert item.what in message
    assert "expected" in message
    assert "got" in message
    assert 'run "bench-kit verify train --full"' in message
    assert shop.store.fetches() == [item.name] * 2
    assert os.fstat(target.fileno()).st_size <= item.size


def test_bytes_that_are_wrong_once_are_right_the_second_time(shop, target):
    item = shop.add(TAR)

    class HealingStore(type(shop.store)):
        def stream(self, name, **part):
            blocks = super().stream(name, **part)
            return blocks if shop.store.fetches() else iter([next(blocks)[:-1]])

    assert fetch(item, HealingStore(shop.folder / "store"), target) == TAR
    assert len(shop.store.fetches()) == 2


def test_a_right_object_that_does_not_unpack_is_an_error(shop, target):
    item = shop.restock(shop.add(TAR, codec="zstd"), b"no frame at all")
    with pytest.raises(CorruptError, match="does not unpack"):
        fetch(item, shop.store, target)


@CODECS
def test_a_tar_of_another_digest_or_size_than_the_manifests_is_an_error(shop, target, codec):
    item = shop.add(TAR, codec=codec)
    with pytest.raises(CorruptError, match=f"unpacks to {len(TAR)} bytes, expected {len(TAR) + 1}"):
        fetch(shop.lying(item, tar_bytes=len(TAR) + 1), shop.store, target)
    with pytest.raises(CorruptError, match="the plain tar's digest: expected 000000000000…, got"):
        fetch(shop.lying(item, tar="0" * 64), shop.store, target)


@CODECS
def test_no_byte_behind_the_manifests_size_is_written(shop, target, codec):
    item = shop.lying(shop.add(TAR, codec=codec), tar_bytes=100_000)
    with pytest.raises(CorruptError, match="more than the 100000 bytes of the manifest"):
        fetch(item, shop.store, target)
    assert os.fstat(target.fileno()).st_size <= 100_000


@CODECS
def test_an_object_without_an_end_is_cut_off(shop, target, codec):
    item = shop.add(TAR, codec=codec)
    right = shop.store.read(item.name)

    class EndlessStore(type(shop.store)):
        def stream(self, name, **part):
            yield right
            while True:
                yield right

    with pytest.raises(CorruptError, match=f"stored bytes: expected {len(right)}, got more"):
        fetch(item, EndlessStore(shop.folder / "store"), target)


def test_a_decompression_bomb_costs_neither_disk_nor_memory(shop, target):
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(1024)) + compressor.flush()
    assert len(bomb) < 1 << 20
    item = shop.restock(shop.add(TAR, codec="zstd"), bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptError, match="more than"):
        fetch(item, shop.store, target)
    assert os.fstat(target.fileno()).st_size <= len(TAR)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_frame_that_asks_for_a_huge_window_is_refused(shop, target):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    buffer = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(
        buffer, closefd=False
    ) as writer:
        writer.write(TAR)
    item = shop.restock(shop.add(TAR, codec="zstd"), buffer.getvalue())
    with pytest.raises(CorruptError, match="does not unpack"):
        fetch(item, shop.store, target)


def test_a_missing_object_is_named_and_not_asked_for_twice(shop, target):
    item = shop.add(TAR)
    shop.store.delete(item.name)
    with pytest.raises(
        CorruptError, match=rf'{item.what} is missing from .*{item.name}.*"bench-kit verify train --full"'
    ):
        fetch(item, shop.store, target)
    assert len(shop.store.fetches()) == 1


def test_the_stores_own_errors_pass(shop, target):
    item = shop.add(TAR)

    class FailingStore(type(shop.store)):
        def stream(self, name, **part):
            yield TAR[:10]
            raise StoreError("the store is on fire")

    with pytest.raises(StoreError, match="on fire"):
        fetch(item, FailingStore(shop.folder / "store"), target)


def test_an_error_of_the_disk_passes_as_it_is(shop, tmp_path):
    item = shop.add(TAR)
    path = tmp_path / "read only"
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        fetch_tar(shop.store, item.name, item.chunk, file.fileno(), what=item.what)
