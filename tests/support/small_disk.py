"""A small disk, to be filled: a file system in memory that one process alone sees."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NEW_MOUNTS, _NEW_USER, _PRIVATE = 0x00020000, 0x10000000, 0x4000 | 1 << 18


def mount_small_disk(folder: Path, size: int) -> str | None:
    """Give this process, alone, a disk of so many bytes at the folder; return what went wrong, or None."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    if libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)):
        return f"no mount namespace: {os.strerror(ctypes.get_errno())}"
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
    libc.mount(b"none", b"/", None, _PRIVATE, None)
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=0700".encode()):
        return f"no tmpfs: {os.strerror(ctypes.get_errno())}"
    return None
