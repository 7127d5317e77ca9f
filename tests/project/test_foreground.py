"""A program in the foreground: its exit code is ours, and Ctrl-C ends all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchkit.errors import NotFoundError
from benchkit.project.foreground import run_in_foreground

RUN = """
import sys
from benchkit.project import foreground
foreground.GRACE_SECONDS = float(sys.argv[1])
print(foreground.run_in_foreground(sys.argv[2:], environment=dict(__import__("os").environ)), flush=True)
"""
STUBBORN = "trap '' INT TERM; sleep 60 & echo $! > child; wait; sleep 60"


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_code_is_the_programs(script: str, code: int) -> None:
    assert run_in_foreground(["sh", "-c", script], environment=dict(os.environ)) == (code, False)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="'no-such-program' cannot be run"):
        run_in_foreground(["no-such-program"], environment=dict(os.environ))


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def start(tmp_path: Path, grace: float, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(grace), *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_program_which_ends_as_it_likes(tmp_path: Path, number: int) -> None:
    script = "trap 'echo saved > saved; exit 3' INT; echo $$ > child; while :; do sleep 0.05; done"
    with start(tmp_path, 20, "sh", "-c", script) as process:
        wait_for(tmp_path / "child")
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "(3, True)\n"
    assert (tmp_path / "saved").exists()


@pytest.mark.processes
def test_what_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    with start(tmp_path, 0.2, "sh", "-c", STUBBORN) as process:
        child = wait_for(tmp_path / "child")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "(137, True)\n"
    assert not is_alive(child)


@pytest.mark.processes
def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    with start(tmp_path, 60, "sh", "-c", STUBBORN) as process:
        wait_for(tmp_path / "child")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "(137, True)\n"


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_program_ends_with_who_started_it(tmp_path: Path) -> None:
    with start(tmp_path, 60, "sh", "-c", "echo $$ > child; while :; do sleep 0.05; done") as process:
        child = wait_for(tmp_path / "child")
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
