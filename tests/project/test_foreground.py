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
foreground.REST_SECONDS = 0.2
print(foreground.run_in_foreground(sys.argv[2:], environment=dict(__import__("os").environ)), flush=True)
"""
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who descends from whom")
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
    return int(path.read_text().split()[0])


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


FAMILY = """
import os, signal, subprocess, sys, time
ignore = "import signal, time; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)]"
stubborn = f"{ignore}; print(flush=True); time.sleep(60)"
children = [
    subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=away, stdout=subprocess.PIPE)
    for away in (False, True)
]
for child in children:
    child.stdout.readline()
with open("new", "w") as file:
    print(os.getpid(), *(child.pid for child in children), file=file)
os.rename("new", "family")
if sys.argv[1:]:
    os._exit(int(sys.argv[1]))
time.sleep(60)
"""


def read_family(folder: Path) -> list[int]:
    wait_for(folder / "family")
    return [int(pid) for pid in (folder / "family").read_text().split()]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


@pytest.mark.processes
@only_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_that_it_has_started_outlives_the_interrupted_or_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    with start(tmp_path, 20, sys.executable, "-c", FAMILY) as process:
        family = read_family(tmp_path)
        process.send_signal(number)
        out = process.communicate(timeout=20)[0]
    assert out == ("" if number == signal.SIGKILL else "(130, True)\n")
    assert_gone(family)


@pytest.mark.processes
@only_linux
def test_nothing_that_it_has_started_outlives_a_program_that_has_ended(tmp_path: Path) -> None:
    with start(tmp_path, 20, sys.executable, "-c", FAMILY, "4") as process:
        family = read_family(tmp_path)
        assert process.communicate(timeout=20)[0] == "(4, False)\n"
    assert_gone(family)


@pytest.mark.processes
@only_linux
def test_a_program_whose_supervisor_is_killed_ends_too(tmp_path: Path) -> None:
    with start(tmp_path, 60, "sh", "-c", "echo $$ $PPID > child; while :; do sleep 0.05; done") as process:
        wait_for(tmp_path / "child")
        child, supervisor = map(int, (tmp_path / "child").read_text().split())
        os.kill(supervisor, signal.SIGKILL)
        assert process.communicate(timeout=20)[0] == "(137, False)\n"
    assert_gone([child])


@pytest.mark.processes
def test_what_is_to_be_killed_otherwise_is_killed_with_the_second_interrupt(tmp_path: Path) -> None:
    run = RUN.replace("environment=", "kill=['touch', 'killed'], environment=")
    command = [sys.executable, "-c", run, "60", "sh", "-c", STUBBORN]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "child")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert not (tmp_path / "killed").exists()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == "(137, True)\n"
    assert (tmp_path / "killed").exists()


def test_modules_in_the_programs_way_are_not_the_supervisors(tmp_path: Path) -> None:
    for name in ("json.py", "socket.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    environment = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    assert run_in_foreground(["sh", "-c", "exit 5"], environment=environment, folder=tmp_path) == (5, False)


@pytest.mark.parametrize("code", [127, 0])
def test_an_exit_code_of_127_is_the_programs_own(code: int) -> None:
    assert run_in_foreground(["sh", "-c", f"exit {code}"], environment=dict(os.environ)) == (code, False)
