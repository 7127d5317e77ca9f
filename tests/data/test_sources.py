"""The source files of samples: what is done for their reading to be quick."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from support.disk import bytes_from_disk, forget, tells_of_disk

from benchkit.data.sources import Sources

COUNT, SIZE = 40, 10_000


@tells_of_disk
def test_all_files_are_asked_for_before_the_first_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(COUNT)]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
        forget(path)
    before = bytes_from_disk()
    with closing(Sources(range(COUNT), [[str(path)] for path in paths])) as sources:
        asked = bytes_from_disk() - before
        places = [memoryview(bytearray(SIZE)) for _ in paths]
        sources.read(places)
    assert [bytes(place) for place in places] == [path.read_bytes() for path in paths]
    if bytes_from_disk() == before:
        pytest.skip("this file system has everything in memory")
    assert asked >= COUNT * SIZE
