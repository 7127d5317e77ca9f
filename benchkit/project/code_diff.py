"""What differs between two states of code, as a unified diff that `git apply` and `patch -p1` take."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from benchkit.format.archive import Archive, ArchiveFile

MAX_TEXT_BYTES = 1 << 20
"""Larger files are not compared line by line, which takes time that grows with the square of their lines."""

_NOWHERE = "/dev/null"


class Tree(Protocol):
    """A state of code: its files by path, and their bytes."""

    @property
    def files(self) -> Mapping[str, ArchiveFile]:
        """Its files, with digests."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of one."""
        ...


@dataclass(frozen=True, slots=True)
class ArchiveTree:
    """The state of code that an archive holds.

    Attributes:
        archive: The archive.
        listed: Its files, with digests.
    """

    archive: Archive
    listed: tuple[ArchiveFile, ...]

    @property
    def files(self) -> Mapping[str, ArchiveFile]:
        """Its files by path."""
        return {file.path: file for file in self.listed}

    def read(self, path: str) -> bytes:
        """Return the bytes of one."""
        return b"".join(self.archive.read(self.files[path]))


def diff_trees(old: Tree, new: Tree) -> Iterator[str]:
    """Yield the lines of the diff, each with its line break, files in order of path."""
    for path in sorted({*old.files, *new.files}):
        before, after = old.files.get(path), new.files.get(path)
        if before != after:
            yield from _diff_file(path, (old, before), (new, after))


def diff_text(old: bytes | None, new: bytes | None, *, path: str) -> Iterator[str]:
    """Yield the hunks between two contents of a file, with their heads; None is a file that is not there."""
    if not (_is_text(old) and _is_text(new)):
        yield f"Binary files {_side('a', path, old)} and {_side('b', path, new)} differ\n"
        return
    lines = difflib.unified_diff(_lines(old), _lines(new), _side("a", path, old), _side("b", path, new))
    for number, line in enumerate(lines):
        if number < 2 and " " in path and _NOWHERE not in line:
            yield f"{line[:-1]}\t\n"  # a tab ends a name that has blanks
        elif line.endswith("\n"):
            yield line
        else:
            yield f"{line}\n\\ No newline at end of file\n"


def _diff_file(
    path: str, old: tuple[Tree, ArchiveFile | None], new: tuple[Tree, ArchiveFile | None]
) -> Iterator[str]:
    before, after = old[1], new[1]
    yield f"diff --git a/{path} b/{path}\n"
    if before is None and after:
        yield f"new file mode {_mode(after)}\n"
    elif after is None and before:
        yield f"deleted file mode {_mode(before)}\n"
    elif before and after and before.executable != after.executable:
        yield f"old mode {_mode(before)}\n"
        yield f"new mode {_mode(after)}\n"
    if before and after and before.digest == after.digest:
        return
    contents = [None if file is None else tree.read(path) for tree, file in (old, new)]
    yield from diff_text(contents[0], contents[1], path=path)


def _mode(file: ArchiveFile) -> str:
    return "100755" if file.executable else "100644"


def _side(letter: str, path: str, data: bytes | None) -> str:
    return _NOWHERE if data is None else f"{letter}/{path}"


def _is_text(data: bytes | None) -> bool:
    if data is None:
        return True
    if len(data) > MAX_TEXT_BYTES or b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(data: bytes | None) -> list[str]:
    """Return the lines with their breaks; only a line feed ends one, as for every other tool."""
    pieces: Iterable[str] = (data or b"").decode().split("\n")
    lines = [f"{piece}\n" for piece in pieces]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines
