"""`bench-kit show-ds`: the datasets that a store holds."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.errors import CorruptError

if TYPE_CHECKING:
    from benchkit.data.catalogue import VersionSummary

EXAMPLE = "Example: bench-kit show-ds --json"


def show_ds(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, for programs.")] = False,
    staged: Annotated[bool, typer.Option("--staged", help="Show staging, not the remote.")] = False,
) -> None:
    """Show the datasets in the project's remote, version by version."""
    from benchkit.data.catalogue import list_summaries, open_catalogue
    from benchkit.settings import load_settings
    from benchkit.store.local import LocalStore
    from benchkit.store.urls import open_remote

    settings = load_settings()
    store = LocalStore(settings.staging) if staged else open_remote(settings)
    open_catalogue(store)
    summaries = list_summaries(store)
    unreadable = [summary for summary in summaries if summary.error]
    if as_json:
        print(json.dumps([_fields(summary) for summary in summaries], indent=2))
    elif summaries:
        heads = ("dataset", "samples", "chunks", "stored", "shared with earlier", "published")
        print(render.table(heads, [_row(summary) for summary in summaries], right=(1, 2, 3, 4)))
    else:
        print(
            f"{render.escape(store.url)} holds no dataset; put one there with: python manage.py migrate-data"
        )
    if unreadable:
        labels = ", ".join(summary.version.label for summary in unreadable)
        raise CorruptError(f"{labels} cannot be read: {unreadable[0].error}")


def _fields(summary: VersionSummary) -> dict[str, str | int | float]:
    fields: dict[str, str | int | float] = {
        "dataset": summary.version.dataset,
        "version": summary.version.number,
        "manifest": summary.version.digest,
        "samples": summary.samples,
        "chunks": summary.chunks,
        "stored_bytes": summary.stored_bytes,
        "shared_bytes": summary.shared_bytes,
        "published": summary.version.modified,
    }
    return fields | {"error": summary.error} if summary.error else fields


def _row(summary: VersionSummary) -> tuple[str, ...]:
    published = datetime.fromtimestamp(summary.version.modified, tz=timezone.utc).astimezone()
    when = f"{published:%Y-%m-%d %H:%M:%S}"
    if summary.error:
        return (summary.version.label, "", "", "", "", f"{when}  unreadable: {summary.error}")
    return (
        summary.version.label,
        f"{summary.samples:,}",
        f"{summary.chunks:,}",
        render.size(summary.stored_bytes),
        render.size(summary.shared_bytes),
        when,
    )
