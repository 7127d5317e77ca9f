"""`bench-kit show-check`: the checkpoints in the project's remote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchkit.cli import render
from benchkit.errors import BenchKitError, CorruptError, FormatError, ObjectNotFoundError

if TYPE_CHECKING:
    from benchkit.store.base import Store
    from benchkit.store.bundles import Shelf
    from benchkit.store.numbered import Numbered
    from benchkit.train.checkpoint_store import StoredCheckpoint

EXAMPLE = "Example: bench-kit show-check --json"

_HEADS = ("checkpoint", "epoch", "samples seen", "processes", "files", "size", "saved")


def show_check(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, for programs.")] = False,
) -> None:
    """Show the checkpoints in the project's remote, version by version."""
    from benchkit.data.catalogue import open_catalogue
    from benchkit.settings import load_settings
    from benchkit.store.urls import open_remote

    store = open_remote(load_settings())
    open_catalogue(store)
    rows = _read_all(store)
    unreadable = [read for _, read in rows if isinstance(read, BenchKitError)]
    if as_json:
        print(json.dumps([_fields(label, read) for label, read in rows], indent=2))
    elif rows:
        print(render.table(_HEADS, [_row(label, read) for label, read in rows], right=(1, 2, 3, 4, 5)))
    else:
        print(
            f"{render.escape(store.url)} holds no checkpoint; upload_model_checkpoint puts one there from a "
            "training script"
        )
    if unreadable:
        raise unreadable[0]


def _read_all(store: Store) -> list[tuple[str, StoredCheckpoint | BenchKitError]]:
    """Return the label of every version, and what is known of it, or why it cannot be read."""
    from benchkit.train.checkpoint_store import list_checkpoints, open_shelf

    rows = []
    for name in list_checkpoints(store):
        shelf = open_shelf(store, name)
        for bundle in shelf.versions():
            read = _read(shelf, bundle)
            if read:
                rows.append((f"{name}@{bundle.number}", read))
    return rows


def _read(shelf: Shelf, bundle: Numbered) -> StoredCheckpoint | BenchKitError | None:
    from benchkit.train.checkpoint_store import read_stored

    try:
        return read_stored(shelf, bundle)
    except ObjectNotFoundError:
        return None  # deleted meanwhile
    except (CorruptError, FormatError) as error:
        return error


def _fields(label: str, stored: StoredCheckpoint | BenchKitError) -> dict[str, Any]:
    name, _, number = label.rpartition("@")
    fields: dict[str, Any] = {"checkpoint": name, "version": int(number)}
    if isinstance(stored, BenchKitError):
        return fields | {"error": str(stored)}
    checkpoint = stored.checkpoint
    return fields | {
        "id": checkpoint.id,
        "saved": checkpoint.created,
        "processes": checkpoint.processes,
        "files": stored.files,
        "bytes": stored.size,
        "loaders": list(checkpoint.loaders),
    }


def _row(label: str, stored: StoredCheckpoint | BenchKitError) -> tuple[str, ...]:
    if isinstance(stored, BenchKitError):
        return (label, "", "", "", "", "", "cannot be read")
    checkpoint = stored.checkpoint
    return (
        label,
        str(checkpoint.epoch + 1) if checkpoint.loaders else "",
        f"{checkpoint.position:,}" if checkpoint.loaders else "",
        str(checkpoint.processes),
        f"{stored.files:,}",
        render.size(stored.size),
        render.moment(checkpoint.created),
    )
