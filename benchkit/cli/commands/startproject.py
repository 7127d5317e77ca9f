"""`bench-kit startproject`: a new project from the template."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from benchkit.errors import UsageError

EXAMPLE = "Example: bench-kit startproject digits --remote file:///data/store"


def startproject(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The project's folder and id: 1 to 64 of A-Z a-z 0-9 _ -, no _ or - first.")
    ],
    remote: Annotated[
        str | None,
        typer.Option(
            help="Where datasets go: a folder or a URL.", show_default="the folder store/ in the project"
        ),
    ] = None,
) -> None:
    """Make a project that runs untouched."""
    from benchkit.project.scaffold import start_project

    if context.args:
        raise UsageError(
            "startproject takes one name and no key, for there is no server to register with: "
            "say where datasets go with --remote, as in "
            '"bench-kit startproject digits --remote file:///data/store"'
        )
    folder = start_project(Path.cwd(), name, remote=remote)
    print(f"made the project {os.path.relpath(folder)}")
    print("next:")
    print(f"  cd {os.path.relpath(folder)}")
    print("  python manage.py migrate-data")
    print("  python manage.py train")
