"""Laws of a chunk: a plain tar that every tool reads, the same bytes for the same samples, for ever."""

import errno
import io
import json
import random
import subprocess
import tarfile
import time

import numpy as np
import pytest
import safetensors.numpy
import webdataset
import zstandard
from support.making import add_sample
from support.rows import read_rows

from benchkit.format import tar
from benchkit.format.chunk import (
    FRAME_BYTES,
    ChunkWriter,
    zstd_library,
)
from benchkit.format.digests import digest_bytes, digest_key
from benchkit.format.index import decode_index
from benchkit.format.labels import encode_label
from benchkit.format.manifest import Manifest, encode_manifest
from benchkit.format.members import file_extension

INDEX_MEMBER = "__benchkit__/index.safetensors"
NOISE = random.Random(0).randbytes(11 << 20)  # nothing compresses it
TEXT = b"one line like any other\n" * 500_000


def write(samples, *, codec="auto"):
    """Return stored bytes and entry of a chunk of `(key, {name: contents}, label)`."""
    sink = io.BytesIO()
    writer = ChunkWriter(sink, codec=codec)
    for key, files, label in samples:
        add_sample(writer, key.encode(), [(name.encode(), data) for name, data in files.items()], label)
    entry = writer.finish()
    return sink.getvalue(), entry


def frames_of(stored: bytes) -> list[bytes]:
    """Return what each frame of a zstd object holds."""
    frames = []
    while stored:
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        frames.append(decompressor.decompress(stored))
        stored = decompressor.unused_data
    return frames


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_sample_comes_back_with_its_names_files_and_types(golden, make_chunk, assert_same, codec):
    samples = golden.FIRST + golden.SECOND
    chunk = make_chunk(samples, codec=codec)
    found = read_rows(chunk.index, range(len(samples)), chunk.read, what="it")
    for row, (sample, (label, files)) in enumerate(zip(samples, found, strict=True)):
        assert chunk.index.key(row) == sample.key
        assert_same(sample.label, label)
        assert (files is None) == (not sample.files)
        assert tuple((file.name, file.read()) for file in files or ()) == sample.files


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_tar_lists_and_extracts_every_member(golden, make_chunk, tmp_path, codec):
    chunk = make_chunk(golden.FIRST + golden.SECOND, codec=codec)
    flags = ["--zstd"] if codec == "zstd" else []
    path = tmp_path / "chunk"
    path.write_bytes(chunk.stored)
    listing = subprocess.run(["tar", *flags, "-tf", path], capture_output=True, text=True, check=True)
    names = listing.stdout.splitlines()
    assert listing.stderr == ""
    with tarfile.open(fileobj=io.BytesIO(chunk.tar)) as archive:
        assert archive.getnames() == names
        assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.type) for m in archive} == {
            (0, 0o644, 0, 0, "", tarfile.REGTYPE)
        }
    assert names[-1] == INDEX_MEMBER
    subprocess.run(["tar", *flags, "-xf", path, "-C", tmp_path], check=True)
    key = digest_key(b"a/same.png").hex()
    assert (tmp_path / f"{key}.0.png").read_bytes() == b"left"
    assert "key_end" in safetensors.numpy.load_file(tmp_path / INDEX_MEMBER)


def test_the_members_of_a_sample_stand_next_to_each_other_under_its_name(golden, make_chunk):
    with tarfile.open(fileobj=io.BytesIO(make_chunk(golden.FIRST[4:5]).tar)) as archive:
        name = digest_key(b"many/0").hex()
        assert archive.getnames() == [
            f"{name}.0.tar",
            f"{name}.1.txt",
            f"{name}.2.bin",
            f"{name}.json",
            INDEX_MEMBER,
        ]
    with tarfile.open(fileobj=io.BytesIO(make_chunk(golden.SECOND[4:5]).tar)) as archive:
        name = digest_key(b"tensors").hex()
        labels = [f"{name}.label.{number}.npy" for number in range(3)]
        assert archive.getnames() == [f"{name}.json", *labels, INDEX_MEMBER]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves them to the collector
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_webdataset_reads_every_sample_and_skips_the_index(golden, make_chunk, tmp_path, codec):
    samples = golden.FIRST + golden.SECOND
    path = tmp_path / "chunk.tar"
    path.write_bytes(make_chunk(samples, codec=codec).stored)
    url = str(path) if codec == "none" else f"pipe:zstd -dcq {path}"
    rows = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [row["__key__"] for row in rows] == [digest_key(sample.key.encode()).hex() for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        files = {
            f"{n}.{file_extension(name.encode()).decode()}": data
            for n, (name, data) in enumerate(sample.files)
        }
        assert {name: row[name] for name in files} == files
        others = set(row) - set(files) - {"__key__", "__url__", "__local_path__"}
        assert {name.split(".")[0] for name in others} <= {"cls", "json", "label"}
        assert len({"cls", "json"} & others) == 1
    decoded = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [row["cls"] for row in decoded if "cls" in row] == [3, -(10**30), 0]
    assert decoded[2]["json"] == {"side": "left"}
    assert decoded[9]["label.0.npy"].tolist() == [[1, 2], [3, 4]]


def test_the_python_tar_reader_takes_an_index_apart_by_the_offsets_in_it(golden, make_chunk):
    chunk = make_chunk(golden.FIRST)
    with tarfile.open(fileobj=io.BytesIO(chunk.tar)) as archive:
        places = [(member.offset_data, member.size) for member in archive]
    offsets, sizes = chunk.index.member_offset.tolist(), chunk.index.member_size.tolist()
    assert places[:-1] == list(zip(offsets, sizes, strict=True))
    assert places[-1] == (chunk.entry.index.tar_offset, chunk.entry.index.tar_length)


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.png", "png"),
        ("a.JPEG", "jpeg"),
        ("a.tar.gz", "gz"),
        ("a.b c", "bin"),
        ("a", "bin"),
        (".bashrc", "bin"),
        ("..png", "png"),
        ("a.", "bin"),
        ("a.ünï", "bin"),
        ("a.0123456789abcdef", "0123456789abcdef"),
        ("a.0123456789abcdefg", "bin"),
        ("a.p-g", "bin"),
        ("a.\u0662", "bin"),
    ],
)
def test_the_extension_is_the_last_suffix_where_it_is_plain(name, extension):
    assert file_extension(name.encode()) == extension.encode()


MIXED = [
    ("text", {"a.txt": TEXT}, 1),
    ("noise", {"n.bin": NOISE, "empty": b""}, [np.zeros(100_000)]),
    *((f"small {n}", {"s.txt": b"%d" % n}, n) for n in range(50)),
]


EDGES = (1 << 20, FRAME_BYTES, 9 << 20)  # what is taken whole, a frame, more than two of them
SIZES = (0, 1, 511, 512, 513, *(edge + more for edge in EDGES for more in (-512, -1, 0, 1)))


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("seed", range(6))
def test_the_tar_is_its_members_one_after_the_other_whatever_their_sizes(codec, seed):
    chosen = random.Random(seed)
    samples = []
    for number in range(30):
        sizes = chosen.choices(SIZES, k=chosen.choice((0, 1, 1, 2, 5)))
        files = {f"{n}.bin": NOISE[number : number + size] for n, size in enumerate(sizes)}
        label = number if number % 3 else [np.arange(chosen.choice((0, 1 << 17, 1 << 20)), dtype=np.int8)]
        samples.append((f"key {number}", files, label))
    stored, entry = write(samples, codec=codec)
    written = stored if codec == "none" else b"".join(frames_of(stored))
    expected = []
    for key, files, label in samples:
        stem, encoded = digest_key(key.encode()).hex(), encode_label(label)
        members = [(f"{n}.bin", data) for n, data in enumerate(files.values())]
        text, *arrays = encoded.parts
        members.append(("cls" if encoded.kind == "cls" else "json", text))
        members += [(f"label.{n}.npy", data) for n, data in enumerate(arrays)]
        for suffix, data in members:
            name = f"{stem}.{suffix}".encode()
            expected += [tar.header(name, len(data)), data, tar.padding(len(data))]
    before = b"".join(expected)
    assert written[: len(before)] == before
    assert entry.index.tar_offset == len(before) + tar.BLOCK
    end = entry.index.tar_offset + entry.index.tar_length
    data = written[entry.index.tar_offset : end]
    index = decode_index(data, tar_bytes=entry.tar_bytes, samples=30, what="it")
    rows = read_rows(index, range(30), lambda start, length: written[start : start + length], what="it")
    assert [[file.getvalue() for file in files or []] for _, files in rows] == [
        list(files.values()) for _, files, _ in samples
    ]


def test_a_sink_that_fails_fails_the_writer():
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "full")

    with ChunkWriter(Full(), codec="none") as writer, pytest.raises(OSError, match="full"):
        add_sample(writer, b"k", [(b"%d" % n, NOISE[: 5 << 20]) for n in range(3)], 0)


def test_nothing_goes_to_the_sink_of_a_writer_that_was_left():
    class Slow(io.BytesIO):
        def write(self, data):
            time.sleep(0.3)
            return super().write(data)

    sink = Slow()
    with ChunkWriter(sink, codec="none") as writer:
        add_sample(writer, b"k", [(b"f", NOISE[: 5 << 20])], 0)
    assert len(sink.getvalue()) == FRAME_BYTES


def test_a_zstd_chunk_is_a_row_of_frames_and_the_index_has_one_to_itself():
    stored, entry = write(MIXED, codec="zstd")
    tar, plain = write(MIXED, codec="none")
    frames = frames_of(stored)
    assert b"".join(frames) == tar
    data, index, end = frames[:-2], frames[-2], frames[-1]
    assert [len(frame) for frame in data[:-1]] == [FRAME_BYTES] * (len(data) - 1)
    assert 0 < len(data[-1]) <= FRAME_BYTES
    place = entry.index
    assert index == tar[place.tar_offset :][: place.tar_length]
    assert zstandard.ZstdDecompressor().decompress(stored[place.offset :][: place.length]) == index
    assert not any(end)
    for piece in (stored, stored[place.offset :]):
        assert zstandard.get_frame_parameters(piece).content_size > 0
    assert (entry.tar, entry.tar_bytes, entry.index.digest) == (plain.tar, len(tar), plain.index.digest)
    assert (entry.stored, entry.stored_bytes) == (digest_bytes(stored), len(stored))


@pytest.mark.parametrize("short", [0, 1, 512, 513, 1536, 1537])
def test_frames_are_cut_every_4_mib_wherever_a_member_ends(short):
    data = bytes(FRAME_BYTES - short)
    for samples in (
        [("a", {"a.bin": data}, 0)],
        [("a", {}, data.decode())],
        [("a", {}, np.zeros(len(data), "u1"))],
    ):
        stored, entry = write(samples, codec="zstd")
        *frames, index, end = frames_of(stored)
        assert b"".join([*frames, index, end]).find(index) == entry.index.tar_offset
        assert [len(frame) for frame in frames[:-1]] == [FRAME_BYTES] * (len(frames) - 1)
        assert 0 < len(frames[-1]) <= FRAME_BYTES


def test_a_plain_chunk_is_stored_as_it_is():
    stored, entry = write(MIXED, codec="none")
    assert entry.stored == entry.tar == digest_bytes(stored)
    assert entry.stored_bytes == entry.tar_bytes == len(stored)
    assert (entry.index.offset, entry.index.length) == (entry.index.tar_offset, entry.index.tar_length)
    assert (entry.codec, entry.level, entry.library) == ("none", 0, "")


@pytest.mark.parametrize(
    ("samples", "codec"),
    [
        ([("a", {"a.txt": TEXT}, 0)], "zstd"),
        ([("a", {"a.bin": NOISE}, 0)], "none"),
        ([("a", {"a.bin": NOISE[:FRAME_BYTES], "b.txt": TEXT}, 0)], "none"),
        ([("a", {"b.txt": TEXT, "a.bin": NOISE}, 0)], "zstd"),
    ],
    ids=["text", "noise", "noise first", "text first"],
)
def test_auto_compresses_where_the_first_frame_shrinks(samples, codec):
    stored, entry = write(samples)
    assert entry.codec == codec
    assert (stored, entry) == write(samples, codec=codec)
    assert entry.library == (zstd_library() if codec == "zstd" else "")


def test_the_writer_knows_the_bytes_of_its_tar():
    writer = ChunkWriter(io.BytesIO(), codec="none")
    expected = 0
    for key, files, label in MIXED:
        encoded = encode_label(label)
        add_sample(writer, key.encode(), [(name.encode(), data) for name, data in files.items()], label)
        members = (*files.values(), *encoded.parts)
        expected += sum(tar.BLOCK + tar.padded(len(data)) for data in members)
        assert writer.tar_bytes == expected
    assert writer.samples == len(MIXED)
    assert writer.finish().tar_bytes > expected


def test_a_chunk_without_samples_is_a_tar_with_an_index():
    stored, entry = write([], codec="none")
    with tarfile.open(fileobj=io.BytesIO(stored)) as archive:
        assert archive.getnames() == [INDEX_MEMBER]
    assert entry.samples == 0


def test_the_index_of_a_chunk_can_be_read_by_anyone(golden, make_chunk):
    chunk = make_chunk(golden.SECOND)
    start = chunk.entry.index.tar_offset
    data = chunk.tar[start : start + chunk.entry.index.tar_length]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    kinds = json.loads(header["__metadata__"]["benchkit"])["kinds"]
    assert kinds[:3] == [
        "json",
        "cls",
        {
            "dict": [
                ["boxes", "array"],
                *[[name, "array"] for name in ("big", "points", "empty")],
                ["day", "scalar"],
            ]
        },
    ]
    assert bytes(safetensors.numpy.load(data)["keys"]).startswith("umlaute/Größe.ünïlong".encode())


def test_manifests_take_entries_as_the_writer_gives_them():
    for codec in ("none", "zstd"):
        _, entry = write(MIXED, codec=codec)
        encode_manifest(Manifest(dataset="d", chunk_bytes=1, codec="auto", chunks=(entry,)))
