"""Whether a file's lock is free; a forked child lets go of it a moment after the fork."""

from __future__ import annotations

import time
from pathlib import Path

from benchkit.store.locks import open_locked


def is_free(path: Path) -> bool:
    """Return whether the file can be locked exclusively now."""
    lock = open_locked(path, shared=False, blocking=False)
    if lock is None:
        return False
    lock.close()
    return True


def is_free_soon(path: Path, within_seconds: float = 5.0) -> bool:
    """Return whether the file can be locked exclusively before the time is over."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if is_free(path):
            return True
        time.sleep(0.01)
    return False
