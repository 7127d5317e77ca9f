"""`bench-kit del-check`: a checkpoint, or one version of it, removed from the remote."""

from __future__ import annotations

from typing import Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import ask_checkpoint, confirm

EXAMPLE = "Example: bench-kit del-check digits@1"


def del_check(
    name: Annotated[
        str | None,
        typer.Argument(
            help="NAME, which is all its versions, or NAME@N.", show_default="shows them and asks"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a checkpoint from the project's remote: one version, or all of a name."""
    from benchkit.data.catalogue import open_catalogue, parse_label
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_remote
    from benchkit.train.checkpoint_store import open_shelf, pick_versions

    store = open_remote(load_settings())
    open_catalogue(store)
    label = name or ask_checkpoint(store, "del-check")
    checkpoint, number = parse_label(label, what="checkpoint")
    shelf = open_shelf(store, checkpoint)
    versions = pick_versions(shelf, number)
    what = f"{render.escape(label)} in {render.escape(store.url)}: {render.count(len(versions), 'version')}"
    confirm(f"Delete {what}?", yes=yes, asks=f"del-check asks before it deletes {label}")
    for version in versions:
        shelf.remove(version)
    print(f"deleted {what}")
