"""What was read from a disk, and how to have it read again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

_TOLD = Path("/proc/self/io")
tells_of_disk = pytest.mark.skipif(
    not _TOLD.exists(), reason="this system does not tell what was read from a disk"
)


def bytes_from_disk() -> int:
    """Return how many bytes this process has had read from a disk."""
    return int(re.search(r"^read_bytes: (\d+)$", _TOLD.read_text(), re.MULTILINE)[1])


def forget(path: Path) -> None:
    """Have the kernel forget what is in a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
