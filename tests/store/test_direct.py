"""Files written past the page cache hold what was written, however it came."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from benchkit.store.direct import DirectWriter


class Open:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)


def pages(size: int) -> memoryview:
    """Return seeded bytes that lie on a page of memory."""
    room = mmap.mmap(-1, size)
    room.write(random.Random(size).randbytes(size))
    return memoryview(room)


LENGTHS = (0, 1, 511, 4095, 4096, 4097, 12_288, (1 << 20) - 1, 1 << 20, (1 << 20) + 4097, 5 << 20)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_written_is_in_the_file(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "file"
    chosen, file = random.Random(seed), Open(path)
    writer, expected = DirectWriter(file), b""
    for _ in range(chosen.randrange(1, 6)):
        data = pages(5 << 20)[: chosen.choice(LENGTHS)]
        assert writer.write(data if chosen.random() < 0.5 else bytes(data)) == len(data)
        expected += data
        if chosen.random() < 0.2:
            writer.flush()
            assert path.read_bytes() == expected
    writer.flush()
    assert path.read_bytes() == expected
    os.close(file.fd)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="nothing is written past the cache here")
def test_a_file_system_that_refuses_while_writing_gets_the_bytes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = Open(tmp_path / "file"), os.write

    def write(fd: int, data: memoryview) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    data = pages(3 << 20)
    writer = DirectWriter(file)
    writer.write(data)
    writer.write(b"end")
    writer.flush()
    os.close(file.fd)
    assert (tmp_path / "file").read_bytes() == bytes(data) + b"end"


def test_a_closed_file_is_not_written(tmp_path: Path) -> None:
    file = Open(tmp_path / "file")
    writer = DirectWriter(file)
    os.close(file.fd)
    file.fd = -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.write(pages(1 << 20))
