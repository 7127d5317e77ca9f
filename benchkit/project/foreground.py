"""A program in the foreground: its exit code is ours, and Ctrl-C ends it and all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from benchkit.errors import NotFoundError
from benchkit.train.orphans import end_with_parent

GRACE_SECONDS = 30.0
"""How long a program may take to end after Ctrl-C before it is killed; a second Ctrl-C kills it at once."""


def run_in_foreground(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    kill: Callable[[], object] | None = None,
) -> tuple[int, bool]:
    """Run a program to its end, and return its exit code, and whether it was interrupted.

    It is in a process group of its own, which gets SIGINT where this process gets it, or SIGTERM. What a
    signal has ended has the exit code 128 and its number, as in a shell. If this process is killed, it ends
    too.

    Args:
        command: The program and its arguments.
        environment: Its environment.
        folder: Where it is run.
        kill: What else ends it at once.

    Raises:
        NotFoundError: There is no such program.
    """
    sys.stdout.flush()
    try:
        process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )
    except OSError as error:
        raise NotFoundError(f"{command[0]!r:.200} cannot be run: {error.strerror}") from error
    with process, _sigterm_as_interrupt():
        try:
            code, interrupted = process.wait(), False
        except KeyboardInterrupt:
            code, interrupted = _end(process, kill), True
    return (128 - code if code < 0 else code), interrupted


def _end(process: subprocess.Popen[bytes], kill: Callable[[], object] | None) -> int:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        return process.wait(GRACE_SECONDS)
    if kill:
        kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: a scheduler ends jobs with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
