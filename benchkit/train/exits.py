"""Exits: what ended a script, for what runs at the end of Python.

Python keeps an error that nobody caught in `sys.last_value`. What `sys.exit` was told it keeps nowhere, so
that is noted from the first `watch` on, and so is what `exit` and `quit` were told. A bare `raise SystemExit`
goes by unseen.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from benchkit.train.run_record import RunState


class Exits:
    """What `sys.exit`, `exit` or `quit` was told last in this process, by its main thread."""

    def __init__(self) -> None:
        self._said: SystemExit | None = None
        self._watches = False

    def watch(self) -> None:
        """Note from now on what they are told; they end the script as ever."""
        if self._watches:
            return
        self._watches = True
        for owner, name in ((sys, "exit"), (builtins, "exit"), (builtins, "quit")):
            if hasattr(owner, name):  # Python without `site` has only the first
                setattr(owner, name, self._noting(getattr(owner, name)))

    def _noting(self, leave: Callable[[Any], NoReturn]) -> Callable[[Any], NoReturn]:
        def note_and_leave(code: Any = None) -> NoReturn:
            if threading.current_thread() is threading.main_thread():  # in another it ends that thread alone
                self._said = SystemExit(code)
            leave(code)

        return note_and_leave

    def ending(self) -> BaseException | None:
        """Return what ends the script; None where it came to its end."""
        error: BaseException | None = getattr(sys, "last_value", None)
        return self._said if error is None else error


EXITS = Exits()


def describe_end(error: BaseException | None) -> tuple[RunState, str | None]:
    """Return the state of a run that an error ended, or none, and what it failed of.

    >>> [describe_end(SystemExit(code)) for code in (None, 0, 3, "no data")]
    [('finished', None), ('finished', None), ('failed', 'exit code 3'), ('failed', 'no data')]
    """
    if isinstance(error, SystemExit):
        if error.code is None or error.code == 0:
            return "finished", None
        said = "" if isinstance(error.code, int) else str(error.code)
        return "failed", said or f"exit code {error.code or 1}"
    if isinstance(error, Exception):
        return "failed", f"{type(error).__name__}: {error}"
    return ("finished" if error is None else "interrupted"), None
