"""`bench-kit diff-vs`: what differs between versions of the project's code."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from benchkit.cli import render

EXAMPLE = "Example: bench-kit diff-vs 1 2"


def diff_vs(
    a: Annotated[int, typer.Argument(min=1, metavar="A", help="A version.")],
    b: Annotated[
        int | None, typer.Argument(min=1, metavar="B", help="Another.", show_default="the project as it is")
    ] = None,
) -> None:
    """Show what differs from version A to version B as a unified diff, which git apply takes."""
    from benchkit.project.code_diff import ArchiveTree, diff_trees
    from benchkit.project.code_shelf import CodeShelf, open_packed, pack_code
    from benchkit.settings import load_settings

    settings = load_settings()
    code = CodeShelf.of(settings)
    with ExitStack() as stack:
        old = code.find(a)
        before = ArchiveTree(stack.enter_context(code.opened(old)), old.files)
        if b is None:
            packed = stack.enter_context(pack_code(settings))
            after = ArchiveTree(stack.enter_context(open_packed(packed)), packed.files)
        else:
            new = code.find(b)
            after = ArchiveTree(stack.enter_context(code.opened(new)), new.files)
        differs = False
        for line in diff_trees(before, after):
            differs = True
            sys.stdout.write(_safe(line) if sys.stdout.isatty() else line)
    if not differs:
        print("nothing differs", file=sys.stderr)


def _safe(line: str) -> str:
    """Return a line without anything that steers a terminal; tabs may stay."""
    return "\t".join(map(render.escape, line.rstrip("\n").split("\t"))) + "\n"
