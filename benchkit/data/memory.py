"""Memory given back to the system: what the C library keeps of blocks that packing has freed.

glibc keeps freed blocks of up to 32 MiB for itself, in every process, once it has seen blocks of that size
freed (mallopt(3), M_MMAP_THRESHOLD), which would double what a worker needs. Here it keeps those of a few
MiB, such as a compressed frame, and those until a task is done: to make their pages anew takes a tenth of
the time. Elsewhere than with glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 8 << 20


def keep_no_large_blocks() -> None:
    """Have this process give every large block back when it is freed, from now on."""
    mallopt = _glibc("mallopt")
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


def give_back() -> None:
    """Give back what this process has freed."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
