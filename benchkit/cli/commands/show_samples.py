"""`bench-kit show-samples`: a contact sheet of a dataset's pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchkit.cli import render

EXAMPLE = "Example: bench-kit show-samples train --output samples.png --count 100"


def show_samples(
    name: Annotated[str, typer.Argument(help="NAME, whose newest version it is, or NAME@VERSION.")],
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many samples.")] = 64,
    staged: Annotated[
        bool, typer.Option("--staged", help="Read the project's staging, not its remote.")
    ] = False,
) -> None:
    """Write a contact sheet of a dataset.

    It shows pictures in a shuffled order, each over its label; one that cannot be read is a red cross.
    """
    from benchkit.data.catalogue import parse_label
    from benchkit.project.contact_sheet import read_tiles, write_sheet

    dataset, version = parse_label(name)
    tiles = read_tiles(dataset, version=version, cloud=not staged, count=count)
    write_sheet(tiles, output)
    failures = [render.escape(tile.failure) for tile in tiles if tile.failure]
    for line in render.first_lines(failures, "sample"):
        print(f"warning: {line}", file=sys.stderr)
    print(f"wrote {output}: {len(tiles)} samples of {name}")
