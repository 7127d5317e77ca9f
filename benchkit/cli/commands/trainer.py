"""`bench-kit trainer`: packages, made and looked into; `bench-kit recipe` is its older name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.left_out import tell_left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchkit.format.archive import ArchiveFile
    from benchkit.project.package import Layout

SUMMARY = "Pack a folder with a training script into one zip, and look into such a zip."
RECIPE_SUMMARY = "The older name of trainer: recipe create is trainer create-zip."
DEPTH = 3

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=SUMMARY)
recipe_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=RECIPE_SUMMARY)
Source = Annotated[Path, typer.Argument(help="The folder.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The zip.")]
Depth = Annotated[int, typer.Option(min=1, help="How many levels of folders are shown.")]


@app.command("create-zip", epilog="Example: bench-kit trainer create-zip . --output trainer.zip")
def create_zip(source: Source = Path(), output: Output = Path("trainer.zip"), depth: Depth = DEPTH) -> None:
    """Pack a folder, but for what .benchkitignore leaves out; the same files make the same zip."""
    from benchkit.project.package import create_package

    package = create_package(source, output)
    tell_left_out(package.sources)
    _show(output, package.files, package.layout, depth)


@recipe_app.command("create", epilog="Example: bench-kit recipe create .")
def create_recipe(source: Source, output: Output = Path("recipe.zip"), depth: Depth = DEPTH) -> None:
    """Pack a folder, as trainer create-zip does, into recipe.zip."""
    create_zip(source, output, depth)


@app.command("view-zip", epilog="Example: bench-kit trainer view-zip trainer.zip")
def view_zip(
    file: Annotated[Path, typer.Argument(help="The zip.")] = Path("trainer.zip"), depth: Depth = DEPTH
) -> None:
    """Show what is in a package, and check its layout."""
    from benchkit.project.package import open_package

    with open_package(file) as package:
        _show(file, package.archive.files, package.layout, depth)


def _show(path: Path, files: Sequence[ArchiveFile], layout: Layout, depth: int) -> None:
    from benchkit.cli.tree import tree

    print(tree(path.name, [(file.path, file.size) for file in files], depth=depth))
    what = f"{render.count(len(files), 'file')}, {render.size(sum(file.size for file in files))}"
    shown = ", ".join(map(render.escape, layout.scripts[:5])) + ", …" * (len(layout.scripts) > 5)
    dockerfile = "its own" if layout.has_dockerfile else "none, so one is generated"
    rows = [
        ("package", f"{path}: {what}"),
        ("scripts", shown),
        ("Dockerfile", dockerfile),
        ("requirements", layout.requirements or "none"),
    ]
    print(render.pairs(rows))
