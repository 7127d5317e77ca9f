"""Golden files: a small store written once, which every later version must read.

    PYTHONPATH=tests python tests/format/make_golden.py

writes `golden/` anew. The plain tars must come out the same for ever; compressed bytes may differ with
another libzstd, so the committed ones are only ever read. Run it when a new format gets golden files of its
own, never to make a failing test pass.
"""

import io
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.making import add_sample

from benchkit.format import layout
from benchkit.format.chunk import ChunkWriter, Codec
from benchkit.format.manifest import ChunkEntry, Manifest, encode_manifest, manifest_digest

FOLDER = Path(__file__).parent / "golden"
DATASET = "golden"
DEAD = b"\x04"  # row 2 of the second chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSample:
    key: str
    label: Any
    files: tuple[tuple[str, bytes], ...] = ()


FIRST = (
    GoldenSample(key="cats/one.JPEG", label=3, files=(("one.JPEG", bytes(range(256)) * 3),)),
    GoldenSample(key="0", label=-(10**30)),
    GoldenSample(key="a/same.png", label={"side": "left"}, files=(("same.png", b"left"),)),
    GoldenSample(key="b/same.png", label={"side": "right"}, files=(("same.png", b"right"),)),
    GoldenSample(
        key="many/0",
        label=(1, [2.5, None, True], {"ä": "ö\x00🙂", "empty": {}}),
        files=(("archive.v1.0.Tar", b"ustar"), ("with a space.TXT", b"space\n"), ("no suffix", b"plain")),
    ),
    GoldenSample(key="empty.bin", label=[], files=(("empty.bin", b""),)),
)
SECOND = (
    GoldenSample(key="umlaute/Größe.ünï", label="Größe", files=(("Größe.ünï", "Größe".encode()),)),
    GoldenSample(
        key="long", label=None, files=(("n" * 250 + ".json", b"{}"), (".hidden", b"h"), ("dot.", b"d"))
    ),
    GoldenSample(key="../outside/dead.txt", label=0, files=(("dead.txt", b"dead"),)),
    GoldenSample(
        key="arrays",
        label={
            "boxes": np.array([[1, 2], [3, 4]], dtype="<f4"),
            "big": np.array([1, 2], dtype=">u2"),
            "points": np.array([(1, 0.5)], dtype=[("x", "u1"), ("y", "<f8")]),
            "empty": np.zeros((0, 3), dtype="<i8"),
            "day": np.datetime64("2024-02-29", "D"),
        },
    ),
    GoldenSample(
        key="tensors",
        label=[
            torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
            torch.tensor(7, dtype=torch.int64),
            torch.zeros(0, 2, dtype=torch.bool),
        ],
    ),
    GoldenSample(
        key="scalars",
        label={1: np.float32(0.1), -2: np.float32("nan"), 3: np.float32("-inf")},
    ),
    GoldenSample(key="floats", label=(0.1, float("inf"), -0.0, {"x": float("nan")})),
    GoldenSample(
        key="texts", label=[np.str_("ß\x00"), np.bytes_(b"\xff\x00"), np.longlong(5), np.bool_(True)]
    ),
)


def write_chunk(samples: tuple[GoldenSample, ...], *, codec: Codec) -> tuple[bytes, ChunkEntry]:
    """Return the stored bytes of a chunk, and its entry."""
    sink = io.BytesIO()
    writer = ChunkWriter(sink, codec=codec)
    for sample in samples:
        files = [(name.encode(), data) for name, data in sample.files]
        add_sample(writer, sample.key.encode(), files, sample.label)
    entry = writer.finish()
    return sink.getvalue(), entry


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    plain, plain_entry = write_chunk(FIRST, codec="none")
    compressed, compressed_entry = write_chunk(SECOND, codec="zstd")
    compressed_entry = replace(compressed_entry, dead=DEAD)
    manifest = Manifest(
        dataset=DATASET, chunk_bytes=1 << 20, codec="auto", chunks=(plain_entry, compressed_entry)
    )
    data = encode_manifest(manifest)
    objects = {
        layout.MARKER_NAME: layout.marker_bytes(),
        manifest.chunk_object(plain_entry): plain,
        manifest.chunk_object(compressed_entry): compressed,
        layout.version_name(DATASET, 1, manifest_digest(data)): data,
    }
    for name, contents in objects.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)


if __name__ == "__main__":
    main()
