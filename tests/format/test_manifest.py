"""Laws of the manifest: it says by digest what a version is; a hostile one is refused before it is used."""

import base64
import copy
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchkit.errors import CorruptError, FormatError
from benchkit.format import canonical
from benchkit.format.manifest import (
    MAX_MANIFEST_BYTES,
    ChunkEntry,
    IndexPlace,
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_digest,
)

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
PLACE = IndexPlace(object=None, offset=512, length=300, tar_offset=512, tar_length=300, digest=C)
PLAIN = ChunkEntry(
    stored=A,
    stored_bytes=2048,
    tar=A,
    tar_bytes=2048,
    codec="none",
    level=0,
    library="",
    samples=11,
    dead=b"\x05\x04",
    index=PLACE,
)
ZSTD = ChunkEntry(
    stored=B,
    stored_bytes=900,
    tar=D,
    tar_bytes=5000,
    codec="zstd",
    level=3,
    library="zstd 1.5.7",
    samples=3,
    dead=b"",
    index=IndexPlace(object=None, offset=700, length=200, tar_offset=4000, tar_length=900, digest=C),
)
ELSEWHERE = replace(
    ZSTD,
    index=IndexPlace(
        object="datasets/train/indices/x", offset=0, length=900, tar_offset=None, tar_length=900, digest=C
    ),
)
MANIFEST = Manifest(dataset="train", chunk_bytes=1 << 25, codec="auto", chunks=(PLAIN, ZSTD, ELSEWHERE))
FIELDS = json.loads(encode_manifest(MANIFEST))


def read(data, *, dataset="train"):
    if not isinstance(data, bytes):
        data = canonical.encode(data)
    return decode_manifest(data, dataset=dataset, digest=manifest_digest(data))


def with_field(path, value):
    """The manifest with another value, or, for `...`, without the key."""
    fields = copy.deepcopy(FIELDS)
    *parents, last = path
    target = fields
    for name in parents:
        target = target[name]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return fields


def test_a_manifest_comes_back():
    data = encode_manifest(MANIFEST)
    assert read(data) == MANIFEST
    assert encode_manifest(read(data)) == data
    assert canonical.encode(json.loads(data)) == data


def test_it_counts_live_samples_and_bytes():
    assert PLAIN.live_rows().tolist() == [1, 3, 4, 5, 6, 7, 8, 9]
    assert (PLAIN.live, ZSTD.live) == (8, 3)
    assert ZSTD.live_rows().tolist() == [0, 1, 2]
    assert (MANIFEST.samples, MANIFEST.stored_bytes, MANIFEST.tar_bytes) == (14, 3848, 12048)
    assert FIELDS["samples"] == 14
    assert FIELDS["chunks"][0]["dead"] == base64.b64encode(b"\x05\x04").decode()


def test_it_names_every_object_once():
    assert MANIFEST.chunk_object(PLAIN) == f"datasets/train/chunks/{A}.tar"
    assert list(MANIFEST.objects()) == [
        (f"datasets/train/chunks/{A}.tar", 2048),
        (f"datasets/train/chunks/{B}.tar.zst", 900),
    ]


@given(
    st.integers(1, 70_000).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=9))
    )
)
def test_dead_rows_are_neither_lost_nor_made(case):
    samples, dead = case
    bits = bytearray((samples + 7) // 8)
    for row in dead:
        bits[row // 8] |= 1 << row % 8
    entry = replace(ZSTD, samples=samples, dead=bytes(bits).rstrip(b"\0"))
    live = entry.live_rows()
    assert live.tolist() == [row for row in range(samples) if row not in dead]
    assert entry.live == len(live)
    manifest = replace(MANIFEST, chunks=(entry,))
    if samples > 65_536:
        with pytest.raises(FormatError, match="a chunk has 1 to 65536"):
            encode_manifest(manifest)
    else:
        assert read(encode_manifest(manifest)) == manifest


def test_a_flipped_byte_is_noticed_before_anything_is_believed():
    data = encode_manifest(MANIFEST)
    digest = manifest_digest(data)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1
        with pytest.raises(CorruptError, match="is corrupt: its bytes have the digest"):
            decode_manifest(bytes(flipped), dataset="train", digest=digest)
    with pytest.raises(CorruptError):
        decode_manifest(data[:-1], dataset="train", digest=digest)


@pytest.mark.parametrize("name", ["val", "../train", "Train"])
def test_a_manifest_of_another_dataset_is_refused(name):
    with pytest.raises(CorruptError, match="describes the dataset 'train'; it was copied to the wrong place"):
        read(encode_manifest(MANIFEST), dataset=name)
    with pytest.raises(CorruptError, match="copied to the wrong place"):
        read(with_field(["dataset"], name))


def test_a_count_that_its_chunks_do_not_hold_is_refused():
    with pytest.raises(CorruptError, match="counts 15 samples, its chunks hold 14"):
        read(with_field(["samples"], 15))


@pytest.mark.parametrize("number", [2, 0, -1, True, 1.0, "1", None, [1]])
def test_another_format_is_refused(number):
    with pytest.raises(FormatError, match="this benchkit reads 1: upgrade benchkit"):
        read(with_field(["format"], number))


CHUNK = ["chunks", 0]
INDEX = [*CHUNK, "index"]
MALFORMED = [
    (["benchkit"], "index"),
    (["benchkit"], ...),
    (["more"], 1),
    (["codec"], ...),
    (["codec"], "gzip"),
    (["codec"], None),
    (["chunk_bytes"], -1),
    (["chunk_bytes"], 1.5),
    (["chunk_bytes"], True),
    (["chunk_bytes"], 1 << 62),
    (["chunk_bytes"], 10**4000),
    (["dataset"], 5),
    (["samples"], "14"),
    (["chunks"], {}),
    (["chunks"], None),
    (CHUNK, None),
    (CHUNK, []),
    (CHUNK, {}),
    ([*CHUNK, "more"], 1),
    ([*CHUNK, "x" * 5000], 1),
    ([*CHUNK, "stored"], ...),
    ([*CHUNK, "stored"], A[1:]),
    ([*CHUNK, "stored"], A.upper()),
    ([*CHUNK, "stored"], "../" * 21 + "x"),
    ([*CHUNK, "stored"], B),
    ([*CHUNK, "stored_bytes"], 2049),
    ([*CHUNK, "stored_bytes"], -2048),
    ([*CHUNK, "tar"], 7),
    ([*CHUNK, "tar_bytes"], 811),
    ([*CHUNK, "tar_bytes"], None),
    ([*CHUNK, "codec"], "auto"),
    ([*CHUNK, "codec"], "lzma"),
    ([*CHUNK, "level"], 3),
    ([*CHUNK, "level"], "0"),
    ([*CHUNK, "library"], "zstd"),
    ([*CHUNK, "library"], 1),
    (["chunks", 1, "library"], "x" * 101),
    (["chunks", 1, "library"], "\x1b[31m"),
    ([*CHUNK, "samples"], 0),
    ([*CHUNK, "samples"], 65_537),
    ([*CHUNK, "samples"], 10),
    ([*CHUNK, "dead"], "BQQA"),
    ([*CHUNK, "dead"], "BQQE"),
    ([*CHUNK, "dead"], "BQg="),
    ([*CHUNK, "dead"], "A"),
    ([*CHUNK, "dead"], "BQ Q="),
    ([*CHUNK, "dead"], "ä"),
    ([*CHUNK, "dead"], None),
    (INDEX, None),
    (INDEX, []),
    ([*INDEX, "more"], 1),
    ([*INDEX, "digest"], ...),
    ([*INDEX, "digest"], "x"),
    ([*INDEX, "object"], "datasets/train/indices/x"),
    ([*INDEX, "object"], 1),
    ([*INDEX, "offset"], 1749),
    ([*INDEX, "offset"], 513),
    ([*INDEX, "length"], 301),
    ([*INDEX, "length"], 1 << 61),
    ([*INDEX, "tar_offset"], None),
    ([*INDEX, "tar_offset"], 1749),
    ([*INDEX, "tar_offset"], -1),
    ([*INDEX, "tar_length"], 1 << 61),
    (["chunks", 1, "index", "offset"], 701),
    (["chunks", 1, "index", "tar_offset"], 4101),
    (["chunks", 2, "index", "tar_offset"], 0),
    (["chunks", 2, "index", "object"], None),
    (["chunks", 2, "index", "object"], ""),
    (["chunks", 2, "index", "object"], "/etc/passwd"),
    (["chunks", 2, "index", "object"], "datasets/train/../other/x"),
    (["chunks", 2, "index", "object"], "datasets/other/x"),
    (["chunks", 2, "index", "object"], "datasets/train/a\nb"),
    (["chunks", 2, "index", "length"], 901),
]


@pytest.mark.parametrize(("path", "value"), MALFORMED, ids=lambda part: repr(part)[:60])
def test_a_malformed_manifest_is_refused(path, value):
    with pytest.raises(FormatError, match=r"the manifest [0-9a-f]{12}… of train") as info:
        read(with_field(path, value))
    assert len(str(info.value)) < 300


def test_other_bytes_are_refused():
    for data in (b"", b"null", b"[]", b"1", b'"x"', b"{", b"\xff", encode_manifest(MANIFEST) + b"}"):
        with pytest.raises(FormatError):
            read(data)
    for text in ('{"benchkit":"manifest","benchkit":"manifest"}', '{"benchkit":NaN}'):
        with pytest.raises(FormatError, match="is no JSON"):
            read(text.encode())


def test_deep_nesting_and_large_claims_are_refused_at_once():
    started = time.monotonic()
    for data, message in (
        (b"[" * 1_000_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000, "nested more than 64 deep"),
        (bytes(300 << 20), f"has {300 << 20} bytes; at most {MAX_MANIFEST_BYTES} are read"),
    ):
        with pytest.raises(FormatError, match=message):
            decode_manifest(data, dataset="train", digest=manifest_digest(data))
    assert time.monotonic() - started < 5


def test_a_manifest_that_a_reader_refuses_is_not_written():
    for entry in (
        replace(PLAIN, stored=B),
        replace(ZSTD, samples=0),
        replace(ZSTD, dead=b"\x08"),
        replace(ELSEWHERE, index=replace(ELSEWHERE.index, object="datasets/other/x")),
    ):
        with pytest.raises(FormatError, match="chunk 1 of the manifest of train"):
            encode_manifest(replace(MANIFEST, chunks=(PLAIN, entry)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(A),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=3,
)
PATHS = st.sampled_from(
    [[name] for name in FIELDS]
    + [["chunks", 0, name] for name in FIELDS["chunks"][0]]
    + [["chunks", n, "index", name] for n in (0, 2) for name in FIELDS["chunks"][0]["index"]]
)


@settings(max_examples=2000, deadline=None)
@given(PATHS, VALUES)
def test_any_other_value_is_refused_or_another_manifest(path, value):
    try:
        manifest = read(json.dumps(with_field(path, value)).encode())
    except (FormatError, CorruptError):
        return
    assert read(encode_manifest(manifest)) == manifest


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 11), st.binary(max_size=3)), min_size=1, max_size=4))
def test_any_other_bytes_are_refused_or_another_manifest(changes):
    data = bytearray(encode_manifest(MANIFEST))
    for place, piece in changes:
        data[place : place + len(piece)] = piece
    try:
        manifest = read(bytes(data))
    except (FormatError, CorruptError):
        return
    assert read(encode_manifest(manifest)) == manifest
