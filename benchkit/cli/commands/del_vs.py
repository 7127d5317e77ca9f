"""`bench-kit del-vs`: a version of the project's code, removed from the remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from benchkit.cli import render
from benchkit.cli.asking import at_terminal, confirm
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from benchkit.project.code_shelf import CodeShelf

EXAMPLE = "Example: bench-kit del-vs 2"


def del_vs(
    version: Annotated[
        int | None,
        typer.Argument(min=1, metavar="VERSION", help="Its number.", show_default="shows them and asks"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version of the project's code from its remote."""
    from benchkit.project.code_shelf import CodeShelf
    from benchkit.settings import load_settings

    code = CodeShelf.of(load_settings())
    bundle = code.shelf.find(_ask_number(code) if version is None else version)
    what = f"version {bundle.number} of the code, of {render.moment(bundle.modified)}, in {code.store.url}"
    confirm(
        f"Delete {render.escape(what)}?",
        yes=yes,
        asks=f"del-vs asks before it deletes version {bundle.number}",
    )
    code.shelf.remove(bundle)
    print(f"deleted {render.escape(what)}")


def _ask_number(code: CodeShelf) -> int:
    bundles = code.shelf.versions()
    if not bundles:
        raise UsageError(f"{code.store.url} holds no version of this code: there is nothing to delete")
    if not at_terminal():
        known = ", ".join(str(bundle.number) for bundle in bundles)
        raise UsageError(f"del-vs needs a version where there is no terminal to ask: {known}")
    print("\n".join(f"{bundle.number}  {render.moment(bundle.modified)}" for bundle in bundles))
    return int(typer.prompt("Which one", type=int))
