"""`bench-kit show-vs`: the versions of the project's code."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchkit.cli import render

if TYPE_CHECKING:
    from benchkit.project.code_version import CodeVersion

EXAMPLE = "Example: bench-kit show-vs --json"
HEADS = ("version", "created", "files", "size", "git", "python", "torch", "benchkit", "datasets")


def show_vs(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, for programs.")] = False,
) -> None:
    """Show the versions of the project's code in its remote."""
    from benchkit.project.code_shelf import CodeShelf
    from benchkit.settings import load_settings

    code = CodeShelf.of(load_settings())
    versions = code.versions()
    if as_json:
        print(json.dumps([_fields(version) for version in versions], indent=2))
    elif versions:
        print(render.table(HEADS, [_row(version) for version in versions], right=(0, 2, 3)))
    else:
        where = render.escape(code.store.url)
        print(f"{where} holds no version of this code; put one there with: python manage.py migrate-code")


def git_text(version: CodeVersion) -> str:
    """Return a version's git revision in short, with a `+` where files differed from it."""
    made = version.made_with
    return f"{made.revision[:10]}{'+' * bool(made.dirty)}" if made.revision else "-"


def _row(version: CodeVersion) -> tuple[str, ...]:
    made = version.made_with
    if made.datasets is None:
        datasets = "not known"
    else:
        datasets = ", ".join(dataset.label for dataset in made.datasets) or "-"
    return (
        str(version.number),
        render.moment(version.record.created),
        f"{len(version.files):,}",
        render.size(version.size),
        git_text(version),
        made.python,
        made.torch or "-",
        made.benchkit,
        datasets,
    )


def _fields(version: CodeVersion) -> dict[str, Any]:
    made = asdict(version.made_with)
    return {
        "version": version.number,
        "created": version.record.created,
        "archive": version.archive.digest,
        "archive_bytes": version.archive.size,
        **made,
        "files": [asdict(file) for file in version.files],
    }
