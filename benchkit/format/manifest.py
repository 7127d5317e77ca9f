"""The manifest: the immutable description of one dataset version.

A manifest names chunks by digest and says how many rows each has, which of them are dead, and where its index
stands. Its own digest is part of its object name, so a flipped byte is noticed before anything is believed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from benchkit.errors import CorruptError, FormatError
from benchkit.format import canonical
from benchkit.format.digests import digest_bytes
from benchkit.format.fields import Fields
from benchkit.format.layout import chunk_name, dataset_prefix, is_object_name

MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 256 << 20
MAX_CHUNK_SAMPLES = 65_536
MAX_LIBRARY_CHARACTERS = 100

CodecName = Literal["none", "zstd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlace:
    """Where a chunk's index is: in the stored object (to be read by range) and in the plain tar.

    Attributes:
        object: The object that holds it; None is the chunk itself.
        offset: First byte in that object.
        length: Bytes there; for a zstd chunk one whole frame.
        tar_offset: First byte of the plain index in the plain tar; None when it stands in another object.
        tar_length: Bytes of the plain index.
        digest: BLAKE3 of the plain index.
    """

    object: str | None
    offset: int
    length: int
    tar_offset: int | None
    tar_length: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkEntry:
    """One chunk of a version.

    Attributes:
        stored: BLAKE3 of the stored object, its name.
        stored_bytes: Size of the stored object.
        tar: BLAKE3 of the plain tar.
        tar_bytes: Size of the plain tar; decompression stops there.
        codec: How the tar is stored.
        level: Compression level, 0 for none.
        library: Version of the library that compressed it, empty for none.
        samples: Rows in the chunk, dead ones included.
        dead: Bitmap of dead rows, bit `i % 8` (lowest first) of byte `i // 8`; empty when all live.
        index: Where the index is.
    """

    stored: str
    stored_bytes: int
    tar: str
    tar_bytes: int
    codec: CodecName
    level: int
    library: str
    samples: int
    dead: bytes
    index: IndexPlace

    def live_rows(self) -> npt.NDArray[np.int64]:
        """Return the live rows in ascending order, shape (live,), int64."""
        if not self.dead:
            return np.arange(self.samples, dtype=np.int64)
        bits = np.unpackbits(np.frombuffer(self.dead, dtype=np.uint8), bitorder="little", count=self.samples)
        return np.flatnonzero(bits == 0).astype(np.int64)

    @property
    def live(self) -> int:
        """The number of live rows."""
        return self.samples - sum(byte.bit_count() for byte in self.dead)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One dataset version: its chunks in written order, and how it was packed.

    Attributes:
        dataset: Name of the dataset.
        chunk_bytes: The chunk size asked for, bytes of plain tar.
        codec: The codec asked for: `auto`, `zstd` or `none`.
        chunks: The chunks, in written order.
    """

    dataset: str
    chunk_bytes: int
    codec: str
    chunks: tuple[ChunkEntry, ...]

    @property
    def samples(self) -> int:
        """The number of live samples."""
        return sum(chunk.live for chunk in self.chunks)

    @property
    def stored_bytes(self) -> int:
        """The size of all chunks as stored."""
        return sum(chunk.stored_bytes for chunk in self.chunks)

    @property
    def tar_bytes(self) -> int:
        """The size of all chunks as plain tars."""
        return sum(chunk.tar_bytes for chunk in self.chunks)

    def chunk_object(self, chunk: ChunkEntry) -> str:
        """Return the object name of one of the chunks."""
        return chunk_name(self.dataset, chunk.stored, chunk.codec)

    def objects(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of every chunk object, each once."""
        sizes = {self.chunk_object(chunk): chunk.stored_bytes for chunk in self.chunks}
        yield from sizes.items()


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as canonical JSON; equal manifests give equal bytes.

    Raises:
        FormatError: It is longer than a reader takes, or has an entry that a reader refuses.
    """
    for number, chunk in enumerate(manifest.chunks):
        _check_chunk(chunk, manifest.dataset, f"chunk {number} of the manifest of {manifest.dataset}")
    data = canonical.encode(
        {
            "benchkit": "manifest",
            "format": MANIFEST_FORMAT,
            "dataset": manifest.dataset,
            "samples": manifest.samples,
            "chunk_bytes": manifest.chunk_bytes,
            "codec": manifest.codec,
            "chunks": [_chunk_fields(chunk) for chunk in manifest.chunks],
        }
    )
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(
            f"the manifest of {manifest.dataset} has {len(data)} bytes for {len(manifest.chunks)} chunks; "
            f"at most {MAX_MANIFEST_BYTES} are read: use larger chunks"
        )
    return data


def manifest_digest(data: bytes) -> str:
    """Return the digest that the object name of these manifest bytes carries."""
    return digest_bytes(data)


def decode_manifest(data: bytes, *, dataset: str, digest: str) -> Manifest:
    """Return the manifest that the bytes hold, every value checked.

    Raises:
        CorruptError: The bytes have another digest, or belong to another dataset.
        FormatError: A newer format, or unknown or malformed keys.
    """
    what = f"the manifest {digest[:12]}… of {dataset}"
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(f"{what} has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    if manifest_digest(data) != digest:
        raise CorruptError(
            f"{what} is corrupt: its bytes have the digest {manifest_digest(data)[:12]}…; migrate it again "
            f"where it is the newest version, and else remove it with: bench-kit del-ds {dataset}@NUMBER"
        )
    fields = canonical.decode(data, what=what, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(fields, dict) or fields.get("benchkit") != "manifest":
        raise FormatError(f"{what} is no manifest of this project")
    if type(fields.get("format")) is not int or fields["format"] != MANIFEST_FORMAT:
        raise FormatError(
            f"{what} has format {fields.get('format')!r:.60}, this benchkit reads {MANIFEST_FORMAT}: "
            "upgrade benchkit"
        )
    reader = Fields(fields, what)
    reader.only("benchkit", "format", "dataset", "samples", "chunk_bytes", "codec", "chunks")
    chunks = reader.value("chunks", list)
    if reader.value("dataset", str) != dataset:
        raise CorruptError(
            f"{what} describes the dataset {fields['dataset']!r:.60}; it was copied to the wrong place"
        )
    manifest = Manifest(
        dataset=dataset,
        chunk_bytes=reader.count("chunk_bytes"),
        codec=reader.choice("codec", "auto", "none", "zstd"),
        chunks=tuple(
            _read_chunk(chunk, dataset, f"chunk {number} of {what}") for number, chunk in enumerate(chunks)
        ),
    )
    if manifest.samples != reader.count("samples"):
        raise CorruptError(f"{what} counts {fields['samples']} samples, its chunks hold {manifest.samples}")
    return manifest


def _chunk_fields(chunk: ChunkEntry) -> dict[str, Any]:
    index = chunk.index
    return {
        "stored": chunk.stored,
        "stored_bytes": chunk.stored_bytes,
        "tar": chunk.tar,
        "tar_bytes": chunk.tar_bytes,
        "codec": chunk.codec,
        "level": chunk.level,
        "library": chunk.library,
        "samples": chunk.samples,
        "dead": base64.b64encode(chunk.dead).decode("ascii"),
        "index": {
            "object": index.object,
            "offset": index.offset,
            "length": index.length,
            "tar_offset": index.tar_offset,
            "tar_length": index.tar_length,
            "digest": index.digest,
        },
    }


def _read_chunk(fields: object, dataset: str, what: str) -> ChunkEntry:
    reader = Fields(fields, what)
    reader.only(
        "stored", "stored_bytes", "tar", "tar_bytes", "codec", "level", "library", "samples", "dead", "index"
    )
    place = Fields(reader.value("index", dict), f"the index of {what}")
    place.only("object", "offset", "length", "tar_offset", "tar_length", "digest")
    codec = cast("CodecName", reader.choice("codec", "none", "zstd"))
    chunk = ChunkEntry(
        stored=reader.digest("stored"),
        stored_bytes=reader.count("stored_bytes"),
        tar=reader.digest("tar"),
        tar_bytes=reader.count("tar_bytes"),
        codec=codec,
        level=reader.value("level", int),
        library=reader.value("library", str),
        samples=reader.count("samples"),
        dead=reader.bitmap("dead"),
        index=IndexPlace(
            object=place.optional("object", str),
            offset=place.count("offset"),
            length=place.count("length"),
            tar_offset=None if place.fields["tar_offset"] is None else place.count("tar_offset"),
            tar_length=place.count("tar_length"),
            digest=place.digest("digest"),
        ),
    )
    _check_chunk(chunk, dataset, what)
    return chunk


def _check_chunk(chunk: ChunkEntry, dataset: str, what: str) -> None:
    index = chunk.index
    if not 1 <= chunk.samples <= MAX_CHUNK_SAMPLES:
        raise FormatError(f"{what} has {chunk.samples} samples; a chunk has 1 to {MAX_CHUNK_SAMPLES}")
    if len(chunk.dead) > (chunk.samples + 7) // 8 or (chunk.dead and chunk.dead[-1] == 0):
        raise FormatError(f"{what} has a bitmap of {len(chunk.dead)} bytes for {chunk.samples} samples")
    if len(chunk.dead) * 8 > chunk.samples and chunk.dead[-1] >> (8 - (len(chunk.dead) * 8 - chunk.samples)):
        raise FormatError(f"{what} marks rows as dead that it does not have")
    if (index.object is None) != (index.tar_offset is not None):
        raise FormatError(f"{what} must have its index either in its own tar or in another object")
    if index.tar_offset is not None and index.tar_offset + index.tar_length > chunk.tar_bytes:
        raise FormatError(f"{what} places its index behind the end of its tar")
    if index.object is None and index.offset + index.length > chunk.stored_bytes:
        raise FormatError(f"{what} places its index behind the end of its object")
    if index.object is not None and (
        not _is_own_object(index.object, dataset) or index.length != index.tar_length
    ):
        raise FormatError(f"{what} has its index in {index.object!r:.60}, which cannot hold it")
    if chunk.codec == "none" and not _is_plain(chunk):
        raise FormatError(f"{what} is stored as it is, but its two digests, sizes or index places differ")
    if len(chunk.library) > MAX_LIBRARY_CHARACTERS or not chunk.library.isprintable():
        raise FormatError(f"{what} was compressed by {chunk.library!r:.60}, which is no library's name")


def _is_own_object(name: str, dataset: str) -> bool:
    return is_object_name(name) and name.startswith(dataset_prefix(dataset))


def _is_plain(chunk: ChunkEntry) -> bool:
    """Return whether what the entry says of the object is what it says of the tar."""
    index = chunk.index
    stored = (chunk.stored, chunk.stored_bytes, chunk.level, chunk.library)
    in_place = (index.offset, index.length) == (index.tar_offset, index.tar_length)
    return stored == (chunk.tar, chunk.tar_bytes, 0, "") and (index.object is not None or in_place)
