"""A process that is measured: run with a time-out, its memory watched, its last line read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_POLL_SECONDS = 0.05
# Looking costs milliseconds, and is to take less than this share of a core from what is measured.
_POLL_SHARE = 0.03
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit)\b")
_TOLD_CHARACTERS = 300
# What a process cannot give back: what it allocated and shares, not the pages of files that it maps.
_TAKEN = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)


def run_script(
    script: Path, argument: str, *, environment: Mapping[str, str], output: Path, timeout_seconds: float
) -> dict[str, Any]:
    """Run a Python script, and return what its last line says, with its peak memory.

    Args:
        script: What to run.
        argument: Its one argument.
        environment: Variables that it has besides ours.
        output: The file that takes what it writes.
        timeout_seconds: After how long it is killed, with all its children.

    Returns:
        Its figures and `peak_bytes`, 0 where the system does not tell; or `error`, in one line, with
        `timed_out` and the end of its `output`.
    """
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), argument],
            env=os.environ | dict(environment),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            peak = _watch(process, timeout_seconds)
        finally:
            _kill_group(process)
    text = output.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if process.returncode == 0 and lines:
        return {**json.loads(lines[-1]), "peak_bytes": peak}
    told = {"timed_out": peak is None, "output": "\n".join(lines[-40:])}
    if peak is None:
        return {"error": f"not done after {timeout_seconds:g} s", **told}
    errors = [line for line in lines if _ERROR.match(line)]
    last = (errors or lines or [f"exit status {process.returncode}"])[-1]
    return {"error": last[:_TOLD_CHARACTERS], **told}


def _watch(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    """Wait for a process, and return the most memory that it and its children had; None if it is not done."""
    peak, deadline = 0, time.monotonic() + timeout_seconds
    while process.poll() is None:
        looked = time.monotonic()
        if looked > deadline:
            return None
        peak = max(peak, _memory_of_tree(process.pid))
        pause = max(_POLL_SECONDS, (time.monotonic() - looked) / _POLL_SHARE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(pause, max(0.0, deadline - time.monotonic())))
    return peak


def _memory_of_tree(pid: int) -> int:
    try:
        top = psutil.Process(pid)
        pids = [pid, *(child.pid for child in top.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_memory_of, pids))


def _memory_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended, or this is not Linux
        return 0
    return sum(int(kilobytes) << 10 for kilobytes in _TAKEN.findall(text))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and of its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
