"""The source files of samples: what is done for their reading to be quick."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path

import pytest

from benchkit.data.sources import Sources

COUNT, SIZE = 40, 10_000
TOLD = Path("/proc/self/io")


def bytes_from_disk() -> int:
    """Return how many bytes this process has had read from a disk."""
    return int(re.search(r"^read_bytes: (\d+)$", TOLD.read_text(), re.MULTILINE)[1])


def write_uncached(path: Path) -> None:
    """Write a file, and have the kernel forget what is in it."""
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.skipif(not TOLD.exists(), reason="this system does not tell what was read from a disk")
def test_all_files_are_asked_for_before_the_first_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(COUNT)]
    for path in paths:
        write_uncached(path)
    before = bytes_from_disk()
    with closing(Sources(range(COUNT), [[str(path)] for path in paths])) as sources:
        asked = bytes_from_disk() - before
        places = [memoryview(bytearray(SIZE)) for _ in paths]
        sources.read(places)
    assert [bytes(place) for place in places] == [path.read_bytes() for path in paths]
    if bytes_from_disk() == before:
        pytest.skip("this file system has everything in memory")
    assert asked >= COUNT * SIZE
