"""`bench-kit show-samples`: a contact sheet of a dataset's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: bench-kit show-samples train --output samples.png --count 100"


def show_samples(
    name: Annotated[str, typer.Argument(help="The dataset.")],
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many samples.")] = 64,
    staged: Annotated[
        bool, typer.Option("--staged", help="Read the project's staging, not its remote.")
    ] = False,
) -> None:
    """Write a contact sheet of a dataset.

    It shows pictures in a shuffled order, each over its label.
    """
    from benchkit.project.contact_sheet import read_tiles, write_sheet

    tiles = read_tiles(name, cloud=not staged, count=count)
    write_sheet(tiles, output)
    print(f"wrote {output}: {len(tiles)} samples of {name}")
