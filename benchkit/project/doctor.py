"""The doctor: what a project needs of this machine and of its store, checked one by one, each with a remedy.

A check that fails hides no other, but for those that would only fail of the same cause.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchkit.data.catalogue import find_version, list_datasets, read_manifest
from benchkit.errors import BenchKitError, CacheError, StoreError
from benchkit.project.checks import Check, attempt, failed
from benchkit.project.remote_checks import check_remote, existing_folder
from benchkit.settings import Settings, load_settings
from benchkit.store.base import Store
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_remote
from benchkit.stream.cache import ChunkCache
from benchkit.stream.eviction import smallest_limit
from benchkit.stream.source import SHUFFLED_LANES

ATTEMPTS = 2
STALL_SECONDS = 5
LOW_DISK_BYTES = 1 << 30
FULL_DISK_BYTES = 16 << 20
FEW_DESCRIPTORS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What reading the newest version of a dataset takes: its chunks, and bytes of the largest, unpacked."""

    chunks: int
    largest_bytes: int

    @property
    def lanes(self) -> int:
        """How many chunks are open at once, if nothing else is said."""
        return min(SHUFFLED_LANES, self.chunks)


def examine(*, offline: bool = False) -> list[Check]:
    """Look at everything that the project in the current folder needs.

    Nothing is left in its remote: an object that is written to try it is removed.

    Args:
        offline: Ask nothing of the remote.
    """
    try:
        settings = load_settings()
        store = open_remote(_impatient(settings))
    except BenchKitError as error:
        return [failed("project", error), *check_machine([])]
    project = Check(name="project", state="ok", detail=f"{settings.project_id} in {settings.project}")
    remote = [] if offline else check_remote(store, settings.s3)
    needs: list[Need] = []
    datasets = []
    if _can_read(remote):
        datasets.append(check_datasets("datasets", store, needs))
    if os.path.isdir(settings.staging):
        datasets.append(check_datasets("staging", LocalStore(settings.staging), needs))
    disk = check_disk("disk of staging", settings.staging, needs, "make room on it")
    return [project, *remote, *datasets, disk, *check_cache(settings, needs), *check_machine(needs)]


def check_datasets(name: str, store: Store, needs: list[Need]) -> Check:
    """Return whether the newest versions of a store's datasets can be read; what they need is added."""

    def look() -> Check:
        found = []
        for dataset in list_datasets(store):
            manifest = read_manifest(store, find_version(store, dataset))
            sizes = [chunk.tar_bytes for chunk in manifest.chunks]
            found.append(Need(chunks=len(sizes), largest_bytes=max(sizes, default=0)))
        needs.extend(found)
        largest = max((need.largest_bytes for need in found), default=0)
        held = f"{len(found)}, largest chunk {_size(largest)} unpacked" if found else "none yet"
        return Check(name=name, state="ok", detail=held)

    return attempt(name, look)


def check_cache(settings: Settings, needs: Iterable[Need]) -> list[Check]:
    """Return whether the cache can be used, is large enough, and its disk has room."""
    needs = list(needs)
    folder, limit = settings.cache_dir, settings.cache_limit_bytes
    cache = ChunkCache(folder=folder, limit_bytes=limit)
    most = max(
        needs,
        key=lambda need: smallest_limit(lanes=need.lanes, largest_tar_bytes=need.largest_bytes),
        default=Need(chunks=0, largest_bytes=0),
    )
    largest = max((need.largest_bytes for need in needs), default=0)

    def look(lanes: int, largest_bytes: int) -> Check:
        cache.check_limit(lanes=lanes, largest_tar_bytes=largest_bytes)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise CacheError(f"the cache {folder} cannot be written: choose another with BENCHKIT_CACHE_DIR")
        return Check(name="cache", state="ok", detail=f"{folder}, up to {_size(limit)}")

    check = attempt("cache", lambda: look(min(1, most.chunks), largest))
    if check.state == "ok":
        # It is read in order with less, and shuffled with fewer open chunks.
        check = attempt("cache", lambda: look(most.lanes, most.largest_bytes), state="warn")
    advice = "make room on it, or choose another folder with BENCHKIT_CACHE_DIR"
    return [check, check_disk("disk of the cache", folder, needs, advice, error=CacheError)]


def check_machine(needs: Iterable[Need]) -> list[Check]:
    """Return whether this process may write temporary files and open enough files."""
    advice = "make room on it, or set TMPDIR to a folder on another disk"
    try:
        temporary = check_disk("disk of TMPDIR", Path(tempfile.gettempdir()), needs, advice)
    except OSError as error:
        detail = f"no temporary file can be written: {error.strerror}"
        code = StoreError.exit_code
        temporary = Check(name="disk of TMPDIR", state="fail", detail=detail, remedy=advice, exit_code=code)
    return [temporary, check_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def check_disk(
    name: str,
    folder: Path,
    needs: Iterable[Need],
    remedy: str,
    *,
    error: type[BenchKitError] = StoreError,
    free_bytes: int | None = None,
) -> Check:
    """Return whether the disk of a folder, which need not be there yet, has room for two chunks.

    Args:
        name: The check's name.
        folder: Where something is to be written.
        needs: What the datasets need.
        remedy: What to do where there is little room.
        error: What a command would fail with where there is none.
        free_bytes: What is free; None asks the disk.
    """
    largest = max((need.largest_bytes for need in needs), default=0)
    try:
        free = shutil.disk_usage(existing_folder(folder)).free if free_bytes is None else free_bytes
    except OSError as failure:
        detail = f"{folder} cannot be looked at: {failure.strerror}"
        return Check(name=name, state="fail", detail=detail, remedy=remedy, exit_code=error.exit_code)
    detail = f"{_size(free)} free for {folder}"
    if free < max(largest, FULL_DISK_BYTES):
        return Check(name=name, state="fail", detail=detail, remedy=remedy, exit_code=error.exit_code)
    if free < max(2 * largest, LOW_DISK_BYTES):
        return Check(name=name, state="warn", detail=f"only {detail}", remedy=remedy)
    return Check(name=name, state="ok", detail=detail)


def check_descriptors(limit: int) -> Check:
    """Return whether a process may open enough files at once; resource.RLIM_INFINITY is no limit."""
    known = "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} at once"
    if limit != resource.RLIM_INFINITY and limit < FEW_DESCRIPTORS:
        remedy = "raise it in the shell that starts training: ulimit -n 4096"
        return Check(name="open files", state="warn", detail=f"only {known}", remedy=remedy)
    return Check(name="open files", state="ok", detail=known)


def _impatient(settings: Settings) -> Settings:
    """Return the settings with an S3 service that answers soon or not at all."""
    s3 = replace(settings.s3, attempts=ATTEMPTS, stall_timeout_seconds=STALL_SECONDS)
    return replace(settings, s3=s3)


def _can_read(remote: list[Check]) -> bool:
    """Return whether datasets can be read from a remote of which this is known."""
    failed = {check.name for check in remote if check.state == "fail"}
    return bool(remote) and failed <= {"write", "delete"}


def _size(count_bytes: int) -> str:
    unit, name = (1 << 30, "GiB") if count_bytes >= 1 << 30 else (1 << 20, "MiB")
    return f"{count_bytes / unit:,.1f} {name}"
