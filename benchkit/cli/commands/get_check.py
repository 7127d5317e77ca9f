"""`bench-kit get-check`: a checkpoint's files, fetched from the project's remote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import ask_checkpoint
from benchkit.cli.progress import Bar

EXAMPLE = "Example: bench-kit get-check digits@3 --to digits-3"


def get_check(
    name: Annotated[
        str | None,
        typer.Argument(
            help="NAME, whose newest version it is, or NAME@N.", show_default="shows them and asks"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new folder for the files.",
            show_default="where load_model_checkpoint looks first: checkpoint/NAME/",
        ),
    ] = None,
) -> None:
    """Fetch a checkpoint: a folder of files that Accelerate's load_state takes, each of them verified."""
    from benchkit.data.catalogue import open_catalogue, parse_label
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_remote
    from benchkit.train.checkpoint_folder import CHECKPOINT_FOLDER, LocalCopies
    from benchkit.train.checkpoint_store import fetch_copy, fetch_files, find_stored, open_shelf

    settings = load_settings()
    store = open_remote(settings)
    open_catalogue(store)
    checkpoint, number = parse_label(name or ask_checkpoint(store, "get-check"), what="checkpoint")
    shelf = open_shelf(store, checkpoint)
    stored = find_stored(shelf, number)
    with Bar(f"fetching {stored.checkpoint.label}", "files") as bar:
        done = 0

        def show(arrived: int) -> None:
            nonlocal done
            done += arrived
            bar.show(done_bytes=done, total_bytes=stored.size, count=0, total=stored.files)

        if to is None:
            copies = LocalCopies(settings.project / CHECKPOINT_FOLDER / checkpoint, checkpoint)
            fetched = fetch_copy(shelf, stored, copies, on_progress=show)
            folder = copies.folder(stored.checkpoint.id)
        else:
            folder, fetched = to.absolute(), True
            fetch_files(shelf, stored, folder, on_progress=show)
    what = f"{stored.checkpoint.label}: {render.count(stored.files, 'file')}, {render.size(stored.size)}"
    print(f"{what}, {'fetched to' if fetched else 'whole already in'} {render.escape(str(folder))}")
