"""What is kept of the base is a pure function of what has become of its chunks."""

from __future__ import annotations

import numpy as np
import pytest

from benchkit.data.compare import ComparedChunk
from benchkit.data.kept import Kept, KeptBuilder, choose_kept
from benchkit.format.manifest import ChunkEntry, IndexPlace

CHUNK_BYTES = 1 << 20


def entry(name: str, samples: int, tar_bytes: int = CHUNK_BYTES) -> ChunkEntry:
    digest = (name * 64)[:64]
    place = IndexPlace(object=None, offset=0, length=9, tar_offset=0, tar_length=9, digest=digest)
    return ChunkEntry(
        stored=digest,
        stored_bytes=tar_bytes,
        tar=digest,
        tar_bytes=tar_bytes,
        codec="none",
        level=0,
        library="",
        samples=samples,
        dead=b"",
        index=place,
    )


def compared(
    live: int,
    samples: int,
    *,
    tar_bytes: int = CHUNK_BYTES,
    lost: bool = False,
    number: int = 0,
    first: int = 0,
) -> ComparedChunk:
    """Return a chunk of which the first rows live on, at positions from `first` on."""
    dead = np.packbits(np.arange(samples) >= live, bitorder="little").tobytes().rstrip(b"\0")
    return ComparedChunk(
        number=number,
        chunk=entry("abcdef"[number], samples, tar_bytes),
        dead=dead,
        lost=lost,
        live=live,
        found=live,
        positions=np.arange(first, first + live, dtype=np.uint32),
    )


def build(chunks: list[ComparedChunk], samples: int) -> Kept:
    builder = KeptBuilder(np.arange(samples, dtype=np.uint32)[::-1], chunk_bytes=CHUNK_BYTES)
    for chunk in reversed(chunks):  # in any order
        builder.add(chunk)
    return builder.finish()


FULL, HALF, CRUMBLING, DEAD = compared(8, 8), compared(4, 8), compared(3, 8), compared(0, 8)
SMALL = compared(8, 8, tar_bytes=CHUNK_BYTES // 2 - 1)
HALF_SIZE = compared(8, 8, tar_bytes=CHUNK_BYTES // 2)
MANY = compared(32_768, 32_768, tar_bytes=9)
LOST = compared(0, 8, lost=True)


@pytest.mark.parametrize(
    ("chunks", "samples", "kept"),
    [
        ([], 5, []),
        ([FULL, HALF, DEAD], 12, [True, True, False]),
        ([FULL, SMALL, HALF_SIZE], 24, [True, True, True]),  # nothing to pack them with
        ([FULL, SMALL, HALF_SIZE], 25, [True, False, True]),
        ([FULL, CRUMBLING], 11, [True, False]),
        ([FULL, CRUMBLING, SMALL, HALF_SIZE], 27, [True, False, False, True]),
        ([MANY], 40_000, [True]),
        ([LOST, SMALL], 16, [False, True]),  # the lost rows alone
        ([LOST, SMALL], 17, [False, False]),
        ([LOST, SMALL], 9, [False, True]),
        ([LOST, CRUMBLING, SMALL], 19, [False, False, False]),
    ],
)
def test_which_chunks_are_kept(chunks: list[ComparedChunk], samples: int, kept: list[bool]) -> None:
    assert list(choose_kept(chunks, samples=samples, chunk_bytes=CHUNK_BYTES)) == kept


def test_samples_of_kept_rows_are_not_packed_and_all_others_are_in_written_order() -> None:
    chunks = [
        compared(8, 8, number=0, first=2),
        compared(3, 8, number=1, first=12),
        compared(5, 8, number=2, first=20, tar_bytes=100),
    ]
    kept = build(chunks, 30)
    assert kept.flags == (True, False, False)
    assert kept.order.tolist() == [29 - position for position in range(30) if not 2 <= position < 10]
    assert (kept.added, kept.changed, kept.removed) == (14, 0, 8)


def test_what_is_written_stands_behind_unless_it_is_the_chunk_that_it_was() -> None:
    chunks = [
        compared(7, 8, number=0),
        compared(0, 8, number=1, lost=True),
        compared(2, 8, number=2, first=10),
    ]
    kept = build(chunks, 20)
    written = [entry("z", 3), entry("b", 8)]
    merged = kept.merge(written)
    assert [chunk.stored[0] for chunk in merged] == ["a", "b", "z"]
    assert merged[0].live_rows().tolist() == list(range(7))
    assert merged[0].dead == b"\x80"


def test_rows_of_lost_chunks_count_as_the_samples_that_are_not_found() -> None:
    chunks = [compared(8, 8, number=0), compared(0, 8, number=1, lost=True)]
    assert [(kept.added, kept.removed) for kept in (build(chunks, n) for n in (14, 16, 19))] == [
        (0, 2),
        (0, 0),
        (3, 0),
    ]


@pytest.mark.parametrize("twice", [compared(4, 8, number=1, first=7), compared(8, 8, number=1, first=7)])
def test_a_base_with_a_sample_twice_is_worth_nothing(twice: ComparedChunk) -> None:
    kept = build([compared(8, 8, number=0), twice], 20)
    assert (kept.chunks, kept.flags) == ((), ())
    assert kept.order.tolist() == list(range(19, -1, -1))
    assert kept.added == 20
