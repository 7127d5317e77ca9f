"""A check: one look at something that a project needs, what it found, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchkit.errors import BenchKitError, StoreError

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one look has found.

    Attributes:
        name: What was looked at.
        state: Whether it is as it should be.
        detail: What it is, or what is wrong.
        remedy: What to do; empty where nothing is wrong.
        exit_code: That of a command that would fail of it; 0 where none would.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""
    exit_code: int = 0


def attempt(name: str, look: Callable[[], Check], *, state: State = "fail") -> Check:
    """Return what a look finds, or its failure; see `failed`."""
    try:
        return look()
    except BenchKitError as error:
        return failed(name, error, state=state)


def failed(name: str, error: BenchKitError, *, state: State = "fail") -> Check:
    """Return an error as a check.

    Args:
        name: The check's name.
        error: Its message says what to do, behind its last semicolon, or else its last colon.
        state: How bad it is.
    """
    detail, remedy = str(error), _advice(error)
    mark = "; " if "; " in detail else ": "
    if not remedy and mark in detail:
        detail, _, remedy = detail.rpartition(mark)
        remedy = remedy.partition(" (tried ")[0]
    if "bench-kit doctor" in remedy:  # which is what tells this
        remedy = "look into the service's log, or ask whoever runs it"
    code = error.exit_code if state == "fail" else 0
    return Check(name=name, state=state, detail=detail, remedy=remedy, exit_code=code)


def _advice(error: BenchKitError) -> str:
    """Return what to do where the operating system refused, whose messages do not say it."""
    cause = error.__cause__
    if not isinstance(error, StoreError) or not isinstance(cause, OSError) or not cause.errno:
        return ""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on its disk"
    return "make the folder readable and writable for you, or name another as remote in benchkit.toml"
