"""`bench-kit doctor`: whether this machine and the project's remote are fit to work, with remedies."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render

if TYPE_CHECKING:
    from benchkit.project.checks import Check

EXAMPLE = "Example: bench-kit doctor"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, for programs.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nothing of the remote.")] = False,
) -> None:
    """Check the remote, credentials, permissions, clocks, disks and the cache, each with a remedy.

    A small object is written to the remote, read, and removed again.
    """
    from benchkit.project.doctor import examine

    checks = examine(offline=offline)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print(_text(checks))
    failures = [check for check in checks if check.state == "fail"]
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _text(checks: list[Check]) -> str:
    rows = [(check.name, check.state, check.detail) for check in checks]
    head, *lines = render.table(("check", "state", "found"), rows).split("\n")
    shown = [head]
    for check, line in zip(checks, lines, strict=True):
        shown.append(line)
        if check.remedy:
            shown.append(f"    what to do: {render.escape(check.remedy)}")
    states = [check.state for check in checks]
    bad, odd = states.count("fail"), states.count("warn")
    verdict = f"{render.count(bad, 'check')} failed, {render.count(odd, 'warning')}"
    return "\n".join([*shown, "all is well" if not bad + odd else verdict])
