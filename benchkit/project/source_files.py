"""The source files of a folder: what of it is packed as its code, and what is left out and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchkit.errors import ProjectError, UsageError
from benchkit.format.layout import is_object_name
from benchkit.project.ignore import IGNORE_FILE, IgnoreRules, read_rules
from benchkit.settings import Settings
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_remote

MAX_FILES = 20_000
MAX_BYTES = 512 << 20


@dataclass(slots=True)
class SourceFiles:
    """The code in a folder, by paths relative to it, in order.

    Attributes:
        folder: The folder.
        paths: What is packed.
        secrets: What is left out since it is likely to hold a key or a password; a folder ends in a slash.
        specials: What is left out since it is no plain file: links, sockets and the like.
    """

    folder: Path
    paths: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    specials: list[str] = field(default_factory=list)


def find_source_files(folder: Path, *, also_ignore: Iterable[str] = ()) -> SourceFiles:
    """Return what of a folder is its code, by its `.benchkitignore` and what is left out everywhere.

    Args:
        folder: The folder.
        also_ignore: Paths in it that are no code either.

    Raises:
        ProjectError: The folder or its ignore file cannot be read, or it holds no code.
        UsageError: A name cannot be packed, or it is too much: something in there is no code.
    """
    found = SourceFiles(folder)
    sizes: dict[str, int] = {}
    try:
        for path, status in _walk(found, read_rules(folder, also=also_ignore), ""):
            found.paths.append(path)
            sizes[path] = status.st_size
            if len(sizes) > MAX_FILES:
                break
    except OSError as error:
        raise ProjectError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not sizes:
        raise ProjectError(f"{folder} holds no code: choose another folder, or mend its {IGNORE_FILE}")
    _refuse_too_much(sizes)
    found.paths.sort()
    return found


def ignored_by_settings(settings: Settings) -> list[str]:
    """Return the paths in a project that its settings say are no code: its remote, staging and cache."""
    remote = open_remote(settings)
    folders = [settings.staging, settings.cache_dir]
    if isinstance(remote, LocalStore):
        folders.append(remote.root)
    inside = [Path(os.path.abspath(folder)) for folder in folders]
    return [
        folder.relative_to(settings.project).as_posix()
        for folder in inside
        if folder.is_relative_to(settings.project) and folder != settings.project
    ]


def _walk(found: SourceFiles, rules: IgnoreRules, below: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(found.folder / below) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = below + entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        verdict = rules.verdict(path, is_folder=is_folder or entry.is_dir())
        if verdict:
            if verdict == "secret":
                found.secrets.append(path + "/" * is_folder)
        elif is_folder:
            if not _is_environment(Path(entry.path)):
                yield from _walk(found, rules, f"{path}/")
        elif not entry.is_file(follow_symlinks=False):
            found.specials.append(path)
        elif not is_object_name(path):
            raise UsageError(
                f"{path!r} in {found.folder} has a backslash or a control character in its name: "
                f"rename it, or leave it out by a line in {IGNORE_FILE}"
            )
        else:
            yield path, entry.stat(follow_symlinks=False)


def _is_environment(folder: Path) -> bool:
    """Return whether a folder is a virtual environment, of venv or of conda, whatever it is called."""
    return (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta").is_dir()


def _refuse_too_much(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if len(sizes) <= MAX_FILES and total <= MAX_BYTES:
        return
    by_folder: dict[str, int] = {}
    for path, size in sizes.items():
        top = path.partition("/")[0]
        by_folder[top] = by_folder.get(top, 0) + size
    largest = max(by_folder, key=lambda top: by_folder[top])
    raise UsageError(
        f"this is more than code: {len(sizes):,} files of {total:,} bytes, where at most {MAX_FILES:,} files "
        f"of {MAX_BYTES:,} bytes are packed; leave out what is data by lines in {IGNORE_FILE}, such as "
        f"/{largest}, which has {by_folder[largest]:,} bytes"
    )
