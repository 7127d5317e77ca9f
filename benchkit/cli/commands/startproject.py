"""`bench-kit startproject`: a new project from the template."""

from __future__ import annotations

import os
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
            help="Where datasets go: a folder, file:///… or s3://bucket/prefix.",
            show_default="the folder store/ in the project",
        ),
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="The service of an s3:// remote.", show_default="AWS")
    ] = None,
    region: Annotated[str | None, typer.Option(help="The region of an s3:// remote.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="Whose credentials an s3:// remote takes: a saved profile, or one of the AWS files."
        ),
    ] = None,
) -> None:
    """Make a project that runs untouched."""
    from benchkit.project.scaffold import start_project
    from benchkit.settings import S3Settings, current_folder

    if context.args:
        raise UsageError(
            "startproject takes one name and no key, for there is no server to register with: "
            "say where datasets go with --remote, as in "
            '"bench-kit startproject digits --remote file:///data/store"'
        )
    given = any(option is not None for option in (endpoint_url, region, profile))
    s3 = S3Settings(endpoint_url=endpoint_url, region=region, profile=profile) if given else None
    folder = start_project(current_folder(), name, remote=remote, s3=s3)
    print(f"made the project {os.path.relpath(folder)}")
    print("next:")
    print(f"  cd {os.path.relpath(folder)}")
    if remote and remote.startswith("s3://"):
        print("  bench-kit doctor")
    print("  python manage.py migrate-data")
    print("  python manage.py train")
