"""Questions to a person at a terminal; where there is none, an error says what to write instead."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from benchkit.cli import render
from benchkit.errors import UsageError

if TYPE_CHECKING:
    from benchkit.store.base import Store


def at_terminal() -> bool:
    """Return whether there is a person to ask; the standard input may be closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str, *, yes: bool, asks: str, err: bool = False) -> None:
    """Go on if a person agrees, or has by `--yes`; else the command ends.

    Args:
        question: What is asked.
        yes: Whether `--yes` was given.
        asks: What the command asks before, for the error.
        err: Ask on stderr.

    Raises:
        UsageError: There is no terminal to ask at.
    """
    if yes:
        return
    if not at_terminal():
        raise UsageError(f"{asks}, and there is no terminal: add --yes")
    typer.confirm(question, abort=True, err=err)


def ask_checkpoint(store: Store, command: str) -> str:
    """Show the checkpoints in a store, and return which one is meant.

    Raises:
        UsageError: There is none, or no terminal to ask at.
    """
    from benchkit.train.checkpoint_store import list_checkpoints, open_shelf

    names = list_checkpoints(store)
    if not names:
        raise UsageError(f"{store.url} holds no checkpoint: {command} has nothing to work on")
    if not at_terminal():
        raise UsageError(f"{command} needs a name where there is no terminal to ask: {', '.join(names)}")
    for name in names:
        numbers = ", ".join(f"{name}@{bundle.number}" for bundle in open_shelf(store, name).versions())
        print(render.escape(numbers))
    return str(typer.prompt("Which one"))
