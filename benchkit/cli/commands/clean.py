"""`bench-kit clean`: what cut-off uploads and packings left in a store, listed and then removed."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchkit.cli import render
from benchkit.cli.asking import confirm

if TYPE_CHECKING:
    from benchkit.data.clean import Cleaning

EXAMPLE = "Example: bench-kit clean --dry-run"


def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    older_than: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="HOURS",
            help="From which age on an upload that has not ended is taken for dead; 0 only if none runs.",
        ),
    ] = 24,
    staged: Annotated[bool, typer.Option("--staged", help="Clean staging, not the remote.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Remove what nothing in the project's remote counts on, as cut-off uploads leave it."""
    from benchkit.data import clean as cleaning
    from benchkit.data.catalogue import open_catalogue
    from benchkit.data.pack import JOURNAL_FOLDER
    from benchkit.project.code_shelf import list_code_shelves
    from benchkit.settings import load_settings
    from benchkit.store.local import LocalStore
    from benchkit.store.urls import open_remote
    from benchkit.train.checkpoint_store import list_shelves

    settings = load_settings()
    store = LocalStore(settings.staging) if staged else open_remote(settings)
    open_catalogue(store)
    plan = cleaning.plan_clean(
        store,
        older_than_seconds=older_than * 3600,
        journals=settings.project / JOURNAL_FOLDER if staged else None,
        shelves=() if staged else (*list_shelves(store), *list_code_shelves(store)),
    )
    what = f"{render.count(len(plan.leftovers), 'object')}, {render.size(plan.freed_bytes)}"
    where = render.escape(store.url)
    if not as_json:
        _print_plan(plan, where)
    remove = bool(plan.leftovers) and not dry_run
    if remove:
        confirm(f"Remove {what}?", yes=yes, asks="clean asks before it removes anything", err=as_json)
    left_alone = cleaning.clean(store, plan) if remove else {}
    if as_json:
        print(json.dumps(_fields(plan, store.url, left_alone, removed=remove), indent=2))
        return
    _print_left_alone({name: why for name, why in left_alone.items() if name not in plan.left_alone})
    if plan.leftovers:
        print(f"would remove {what} from {where}" if dry_run else f"removed {what} from {where}")


def _print_plan(plan: Cleaning, where: str) -> None:
    rows = []
    for (kind, dataset), group in groupby(plan.leftovers, key=lambda left: (left.kind, left.dataset)):
        found = list(group)
        oldest = plan.now - min(left.modified for left in found)
        rows.append(
            (
                kind,
                found[0].name if len(found) == 1 else f"{len(found):,} of {dataset or 'the store'}",
                render.size(sum(left.size for left in found)),
                render.duration(max(0.0, oldest)),
            )
        )
    if rows:
        print(render.table(("kind", "object", "size", "age"), rows, right=(2, 3)))
    else:
        print(f"nothing to clean in {where}")
    _print_left_alone(plan.left_alone)
    if plan.unknown:
        names = ", ".join(render.escape(name) for name in plan.unknown[:3])
        more = ", …" if len(plan.unknown) > 3 else ""
        print(f"not this project's, left alone: {render.count(len(plan.unknown), 'object')}: {names}{more}")


def _print_left_alone(left_alone: dict[str, str]) -> None:
    for dataset, why in left_alone.items():
        print(f"{render.escape(dataset)} is left alone: {render.escape(why)}")


def _fields(plan: Cleaning, url: str, left_alone: dict[str, str], *, removed: bool) -> dict[str, Any]:
    return {
        "store": url,
        "removed": removed,
        "freed_bytes": plan.freed_bytes,
        "leftovers": [
            {
                "kind": left.kind,
                "dataset": left.dataset,
                "object": left.name,
                "bytes": left.size,
                "age_seconds": max(0.0, plan.now - left.modified),
            }
            for left in plan.leftovers
        ],
        "left_alone": plan.left_alone | left_alone,
        "unknown": list(plan.unknown),
    }
