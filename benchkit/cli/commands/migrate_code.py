"""`python manage.py migrate-code`: the project's code, packed and uploaded as a version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.app import managed_project
from benchkit.cli.left_out import tell_left_out
from benchkit.errors import ProjectError

if TYPE_CHECKING:
    from benchkit.project.code_shelf import CodeReport

EXAMPLE = "Example: python manage.py migrate-code"


def migrate_code(
    context: typer.Context,
    version: Annotated[
        int | None, typer.Argument(min=1, metavar="VERSION", help="Its number.", show_default="the next")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the version of that number; says by what.")
    ] = False,
) -> None:
    """Upload the project's code as a version, unless it is just as the newest one."""
    from benchkit.errors import UsageError
    from benchkit.project.code_shelf import CodeShelf, describe_making, pack_code
    from benchkit.settings import load_settings, use_project

    if force and version is None:
        raise UsageError("--force replaces a version: say which, as in: migrate-code 2 --force")
    project = managed_project(context)
    use_project(project)
    settings = load_settings(project)
    code = CodeShelf.of(settings)
    with pack_code(settings) as packed:
        tell_left_out(packed.sources)
        plan = code.plan(packed.files, version, force=force)
        if plan.same:
            when = render.moment(plan.same.record.created)
            print(f"unchanged: version {plan.same.number} of {when} holds just this code; nothing to upload")
            return
        made_with = describe_making(settings, code.store, find_datasets(project))
        report = code.publish(packed, plan, made_with)
    show_report(report, code.store.url)


def find_datasets(project: Path) -> list[str] | None:
    """Return the names of the datasets that a project declares; None, and why, where that is not known."""
    from benchkit.project.declared import declared_datasets

    names = declared_datasets(project)
    if names is None:
        from benchkit.project.userdata import load_datasets

        try:
            names = [dataset.name for dataset in load_datasets(project)]
        except ProjectError as error:
            print(
                f"note: which datasets this code uses is not known: {render.escape(str(error))}",
                file=sys.stderr,
            )
    return names


def show_report(report: CodeReport, url: str) -> None:
    """Print what has become of the code."""
    version = report.version
    if report.replaced:
        old = report.replaced
        print(f"replaced version {old.number} of {render.moment(old.record.created)}:")
    changes = [f"{how} {render.escape(path)}" for path, how in report.changes.items()]
    for line in render.first_lines(changes, "file"):
        print(f"  {line}")
    what = f"{render.count(len(version.files), 'file')}, {render.size(version.size)}"
    print(f"version {version.number} of the code is in {render.escape(url)}: {what}")
