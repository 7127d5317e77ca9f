"""`bench-kit pull-vs`: a version of the project's code, fetched and unpacked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from benchkit.cli import render

EXAMPLE = "Example: bench-kit pull-vs 2 --to ../as-it-was"


def pull_vs(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="Its number.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The folder for it.", show_default="the project itself")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there and differ.")] = False,
) -> None:
    """Fetch a version of the project's code; files that are no part of it stay as they are."""
    from benchkit.project.code_shelf import CodeShelf
    from benchkit.project.unpacking import unpack
    from benchkit.settings import load_settings

    settings = load_settings()
    code = CodeShelf.of(settings)
    found = code.find(version)
    folder = settings.project if to is None else Path(os.path.abspath(to))
    with code.opened(found) as archive:
        done = unpack(archive, found.files, folder, force=force)
    for path in done.replaced:
        print(f"  ~ {render.escape(path)}")
    parts = (("new", done.written), ("replaced", done.replaced), ("as they were", done.same))
    counts = ", ".join(f"{len(paths):,} {what}" for what, paths in parts if paths)
    print(f"version {version} is in {render.escape(str(folder))}: {counts}")
