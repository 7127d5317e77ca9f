"""Memory given back to the system: what the C library keeps of blocks that packing has freed.

glibc keeps freed blocks of up to 32 MiB for itself, in every process, once it has seen blocks of that size
freed (mallopt(3), M_MMAP_THRESHOLD). Packing takes and frees blocks of a few MiB all the time, so that this
would double what a worker needs. Elsewhere than with glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 256 << 10


def keep_no_large_blocks() -> None:
    """Have this process give every large block back when it is freed, from now on."""
    mallopt = _glibc("mallopt")
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)


def give_back() -> None:
    """Give back what this process has freed."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
