"""A program in the foreground: its exit code is ours, and Ctrl-C ends it and all that it has started."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from benchkit.errors import NotFoundError
from benchkit.project import supervisor

GRACE_SECONDS = 30.0
"""How long a program may take to end after Ctrl-C before it is killed; a second Ctrl-C kills it at once."""

REST_SECONDS = 5.0
"""How long what a program has started may take to end after it, before that is killed."""


def run_in_foreground(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path | None = None,
    kill: Sequence[str] = (),
) -> tuple[int, bool]:
    """Run a program to its end, and return its exit code, and whether it was interrupted.

    It is in a process group of its own, which gets SIGINT where this process gets it, or SIGTERM, or is
    killed. What a signal has ended has the exit code 128 and its number, as in a shell. Nothing that it has
    started outlives it: a supervisor sees to that, which goes on for as long as it takes where this process
    is killed.

    Args:
        command: The program and its arguments.
        environment: Its environment.
        folder: Where it is run.
        kill: A command that ends at once what the program does not end itself.

    Raises:
        NotFoundError: There is no such program.
    """
    sys.stdout.flush()
    script = str(Path(supervisor.__file__).resolve())  # it is run elsewhere
    task = {"command": list(command), "kill": list(kill), "grace": GRACE_SECONDS, "rest": REST_SECONDS}
    ours, theirs = socket.socketpair()
    with ours, _sigterm_as_interrupt():
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, json.dumps(task)],
                env=dict(environment),
                cwd=folder,
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        interrupted = False
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                with suppress(BrokenPipeError):  # it has just ended
                    ours.send(b"!")
        if code == supervisor.CANNOT_RUN and (reason := _read_reason(ours)):
            raise NotFoundError(f"{command[0]!r:.200} cannot be run: {reason}")
    return (128 - code if code < 0 else code), interrupted


def _read_reason(channel: socket.socket) -> str:
    """Return why the supervisor could not run the program; empty where the exit code is the program's own."""
    with suppress(ConnectionResetError):  # it has left what we sent unread
        return channel.recv(1000).decode(errors="replace")
    return ""


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
