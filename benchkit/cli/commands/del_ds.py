"""`bench-kit del-ds`: a dataset, or one version of it, removed from the remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import at_terminal, confirm
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from benchkit.store.base import Store

EXAMPLE = "Example: bench-kit del-ds train@1"


def del_ds(
    name: Annotated[
        str | None, typer.Argument(help="NAME, or NAME@VERSION.", show_default="shows them and asks")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Delete a dataset from the project's remote; chunks that other versions use stay."""
    from benchkit.data.catalogue import open_catalogue, parse_label
    from benchkit.data.remove import plan_removal, remove
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_remote

    store = open_remote(load_settings())
    open_catalogue(store)
    label = name or _ask_name(store)
    removal = plan_removal(store, *parse_label(label))
    what = (
        f"{render.escape(label)} in {render.escape(store.url)}: "
        f"{render.count(len(removal.manifests), 'version')}, "
        f"{render.count(len(removal.chunks), 'chunk')}, {render.size(removal.freed_bytes)}"
    )
    if dry_run:
        print(f"would delete {what}")
        return
    confirm(f"Delete {what}?", yes=yes, asks=f"del-ds asks before it deletes {label}")
    remove(store, removal)
    print(f"deleted {what}")


def _ask_name(store: Store) -> str:
    from benchkit.data.catalogue import list_datasets

    names = list_datasets(store)
    if not names:
        raise UsageError(f"{store.url} holds no dataset: there is nothing to delete")
    if not at_terminal():
        raise UsageError(f"del-ds needs a name where there is no terminal to ask: {', '.join(names)}")
    print("\n".join(render.escape(dataset) for dataset in names))
    return str(typer.prompt("Which one"))
