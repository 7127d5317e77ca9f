"""Scratch folders, which whoever comes next sweeps, and fresh ones, which get their name once whole."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from benchkit.errors import UsageError
from benchkit.store.locks import LockedFile, open_locked

SCRATCH_SUFFIX = ".part"


@contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes the target when nothing went wrong, and else goes.

    It lies beside the target and is locked as long as its process lives; what dead ones left is swept first.

    Raises:
        UsageError: There is something at the target, and it is no empty folder.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise UsageError(f"{target} is there already: choose another folder, or remove it")
    make_folder(target.parent)
    with scratch_folder(target.parent, f".{target.name}-") as fresh:
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            sync(path)
        fresh.chmod(0o755)
        fresh.rename(target)
        sync(target.parent)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give an empty folder, called `<prefix>….part`, that goes at the end unless it was renamed.

    It is locked as long as its process lives; what dead ones left in the same place is swept first.
    """
    for left in parent.glob(f"{glob.escape(prefix)}*{SCRATCH_SUFFIX}"):
        # Another user's is not ours to remove; one that somebody else sweeps may be gone already.
        with suppress(OSError), _lock(left) or nullcontext() as lock:
            if lock:
                shutil.rmtree(left)
    folder, lock = _make_locked(parent, prefix)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _make_locked(parent: Path, prefix: str) -> tuple[Path, LockedFile]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=SCRATCH_SUFFIX, dir=parent))
        with suppress(FileNotFoundError):  # somebody swept it before it was locked
            if lock := _lock(folder):
                return folder, lock


def _lock(folder: Path) -> LockedFile | None:
    """Return the folder, locked; None where its maker lives, or somebody else sweeps it."""
    return open_locked(folder, shared=False, writable=False, blocking=False)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably: a file is no safer than the folders that lead to it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Have the disk keep a file, or what a folder says of its own."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
