"""Laws of the golden files: they are read for ever, and their plain tars are written the same for ever."""

import io

import pytest
import zstandard
from support.rows import read_rows

from benchkit.format import layout
from benchkit.format.digests import digest_bytes
from benchkit.format.index import decode_index
from benchkit.format.manifest import decode_manifest, encode_manifest


@pytest.fixture(scope="module")
def stored_golden(golden):
    """The golden manifest, and the golden objects by name."""
    objects = {
        str(path.relative_to(golden.FOLDER)): path.read_bytes()
        for path in golden.FOLDER.rglob("*")
        if path.is_file()
    }
    name, data = next((name, data) for name, data in objects.items() if "/versions/" in name)
    digest = name.removesuffix(".json").split("-")[-1]
    return decode_manifest(data, dataset=golden.DATASET, digest=digest), objects


def test_the_golden_plain_chunk_is_written_again_byte_for_byte(golden, stored_golden):
    manifest, objects = stored_golden
    entry = manifest.chunks[0]
    assert golden.write_chunk(golden.FIRST, codec="none") == (objects[manifest.chunk_object(entry)], entry)


def test_the_golden_zstd_chunk_unpacks_to_the_tar_that_is_written_today(golden, stored_golden):
    manifest, objects = stored_golden
    entry = manifest.chunks[1]
    stored = objects[manifest.chunk_object(entry)]
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored), read_across_frames=True)
    unpacked = reader.read()
    tar, plain = golden.write_chunk(golden.SECOND, codec="none")
    assert unpacked == tar
    assert (
        (entry.stored, entry.tar)
        == (digest_bytes(stored), digest_bytes(tar))
        == (digest_bytes(stored), plain.tar)
    )
    index = zstandard.ZstdDecompressor().decompress(stored[entry.index.offset :][: entry.index.length])
    assert index == tar[entry.index.tar_offset :][: entry.index.tar_length]
    assert digest_bytes(index) == entry.index.digest == plain.index.digest


def test_the_golden_manifest_is_written_again_byte_for_byte(golden, stored_golden):
    manifest, objects = stored_golden
    assert encode_manifest(manifest) in objects.values()
    assert manifest.samples == len(golden.FIRST) + len(golden.SECOND) - 1
    assert manifest.chunks[1].live_rows().tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert {name for name, _ in manifest.objects()} < set(objects)


def test_every_golden_sample_is_read_from_the_golden_bytes(golden, stored_golden, assert_same):
    manifest, objects = stored_golden
    for entry, samples in zip(manifest.chunks, (golden.FIRST, golden.SECOND), strict=True):
        tar = objects[manifest.chunk_object(entry)]
        if entry.codec == "zstd":
            tar = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(tar), read_across_frames=True).read()

        def read(offset, length, tar=tar):
            return tar[offset : offset + length]

        data = read(entry.index.tar_offset, entry.index.tar_length)
        index = decode_index(data, tar_bytes=entry.tar_bytes, samples=entry.samples, what="it")
        for row, sample in enumerate(samples):
            assert index.key(row) == sample.key
            ((label, files),) = read_rows(index, [row], read, what="it")
            assert_same(sample.label, label)
            assert tuple((file.name, file.read()) for file in files or []) == sample.files


def test_the_golden_store_has_its_marker(stored_golden):
    _, objects = stored_golden
    assert objects[layout.MARKER_NAME] == layout.marker_bytes()
    layout.check_marker(objects[layout.MARKER_NAME], url="golden")
