"""A job's supervisor: a small process between a job and who launched it, which leaves nothing of it running.

It is run as a script, with the standard library alone and apart from whatever modules the job brings along:
`python -I -S supervisor.py {"command": […], "kill": […], "grace": 30, "rest": 5}`, its standard input being a
socket. Each byte that comes through it is an interrupt; its end means that the launcher is gone, however it
went, and interrupts the job too. What the operating system says of a command that cannot be run goes back.

The job gets SIGINT; after `grace` seconds, or at the second interrupt, it is killed, and the command `kill`
is run. What outlives the job's own process gets SIGTERM, and after `rest` seconds it is killed. On Linux that
is all that the job has started, wherever it went; elsewhere, its process group.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CANNOT_RUN = 127
"""The exit code where there is no such program, told with what the operating system says."""

_IS_LINUX = sys.platform == "linux"
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Supervisor:
    """The life of one job.

    Args:
        command: The program and its arguments.
        kill: A command that ends at once what is not among the job's processes, such as a container.
        grace: Seconds that the job may take to end after an interrupt.
        rest: Seconds that others may take to end after the job's own process has.
    """

    def __init__(self, command: list[str], *, kill: list[str], grace: float, rest: float) -> None:
        self._kill, self._grace, self._rest = kill, grace, rest
        self._code: int | None = None
        self._interrupts = 0
        self._killed = False
        self._deadline: float | None = None
        self._job = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent if _IS_LINUX else None,  # noqa: PLW1509 - one thread
        )

    def interrupt(self) -> None:
        """Ask the job to end; the second time, end it."""
        self._interrupts += 1
        if self._code is None and self._interrupts == 1:
            self._signal_group(signal.SIGINT)
            self._deadline = time.monotonic() + self._grace
        elif self._interrupts > 1:
            self.end()

    def end(self) -> None:
        """End all that is left, at once."""
        if self._kill and not self._killed:
            with suppress(OSError, subprocess.TimeoutExpired):
                quiet = subprocess.DEVNULL
                subprocess.run(
                    self._kill, stdin=quiet, stdout=quiet, stderr=quiet, timeout=self._grace, check=False
                )
        self._killed = True
        self._signal_all(signal.SIGKILL)
        self._deadline = time.monotonic() + 1  # for what was forked meanwhile

    def seconds_left(self) -> float | None:
        """Return after how long `end` is due; None where it is not."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def reap(self) -> int | None:
        """Take note of what has ended; return the job's exit code once nothing of it is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return self._code
            if pid == 0:
                return None
            if pid == self._job.pid:
                code = os.waitstatus_to_exitcode(status)
                self._code = self._job.returncode = 128 - code if code < 0 else code
                self._signal_all(signal.SIGTERM)
                self._deadline = time.monotonic() + self._rest

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._job.pid, number)

    def _signal_all(self, number: int) -> None:
        self._signal_group(number)
        for pid in _descendants() if _IS_LINUX else []:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def main() -> int:
    """Supervise the job that the arguments tell of, and return its exit code."""
    task = json.loads(sys.argv[1])
    launcher, signals = socket.socket(fileno=0), _receive(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)
    if _IS_LINUX:
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        job = Supervisor(task["command"], kill=task["kill"], grace=task["grace"], rest=task["rest"])
    except OSError as error:
        launcher.send((error.strerror or str(error)).encode())
        return CANNOT_RUN
    sources = [launcher, signals]
    while (code := job.reap()) is None:
        ready = select.select(sources, [], [], job.seconds_left())[0]
        if not ready:
            job.end()
        for source in ready:
            said = source.recv(64)
            if source is signals:
                said = said.replace(bytes([signal.SIGCHLD]), b"")
            elif not said:  # the launcher is gone
                sources.remove(launcher)
                said = b"!"
            for _ in said:
                job.interrupt()
    return code


def _receive(*numbers: signal.Signals) -> socket.socket:
    """Return a socket from which these signals are read, a byte each, from now on."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.detach(), warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return woken


def _descendants() -> list[int]:
    """Return the processes below this one, by what the kernel says of every process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            after_name = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(folder.name))
    found = list(children.get(os.getpid(), []))
    for pid in found:  # which grows meanwhile
        found += children.get(pid, [])
    return found


def _end_with_parent() -> None:
    """End this process when its parent is killed, which then cannot end it."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
