"""A tree of files as text, for a terminal; a pure function."""

from __future__ import annotations

from collections.abc import Iterable

from benchkit.cli import render

_BRANCH, _LAST, _LINE, _BLANK = "├── ", "└── ", "│   ", "    "


def tree(title: str, sizes: Iterable[tuple[str, int]], *, depth: int) -> str:
    """Return files by folder, with their sizes.

    Args:
        title: What stands above.
        sizes: Paths and bytes.
        depth: How many levels are shown; of a folder below, how much is in it.
    """
    entries = [(path.split("/"), size) for path, size in sizes]
    return "\n".join([render.escape(title), *_lines(entries, "", depth)])


def _lines(entries: list[tuple[list[str], int]], indent: str, depth: int) -> list[str]:
    folders: dict[str, list[tuple[list[str], int]]] = {}
    files: dict[str, int] = {}
    for parts, size in entries:
        if len(parts) == 1:
            files[parts[0]] = size
        else:
            folders.setdefault(parts[0], []).append((parts[1:], size))
    names = [(name, True) for name in sorted(folders)] + [(name, False) for name in sorted(files)]
    lines = []
    for number, (name, is_folder) in enumerate(names, start=1):
        last = number == len(names)
        start, shown = indent + (_LAST if last else _BRANCH), render.escape(name)
        if not is_folder:
            lines.append(f"{start}{shown}  {render.size(files[name])}")
        elif depth > 1:
            lines.append(f"{start}{shown}/")
            lines += _lines(folders[name], indent + (_BLANK if last else _LINE), depth - 1)
        else:
            inside = folders[name]
            count = render.count(len(inside), "file")
            lines.append(f"{start}{shown}/  {count}, {render.size(sum(size for _, size in inside))}")
    return lines
