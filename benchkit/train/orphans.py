"""Orphans: processes that would go on without the one that started them.

A launcher that is killed with SIGKILL cannot end its ranks. They would train on beside the run that is
started in their place, and make checkpoints under the same name.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

LAUNCHER_VARIABLE = "BENCHKIT_LAUNCHER"
"""The environment variable that has the launcher's process number, where it is known."""
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>


def end_with_parent() -> None:
    """End this process when its parent ends, or now if the launcher ended while this one began.

    Where the system is not Linux, nothing happens.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        launcher = os.environ.get(LAUNCHER_VARIABLE)
        if os.getppid() != parent or (launcher and not _lives(launcher)):
            os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: str) -> bool:
    try:
        # Of one that has ended, and that its parent has not waited for, it is empty.
        return bool(Path("/proc", process, "cmdline").read_bytes())
    except OSError:
        return False
