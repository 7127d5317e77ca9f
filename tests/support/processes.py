"""Real processes for tests: scripts under torchrun, their environment, their output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent


def environment(project: Path, **more: str) -> dict[str, str]:
    """Return an environment in which a script finds the project, a cache, and the tests' helpers."""
    return os.environ | {
        "BENCHKIT_PROJECT": str(project),
        "BENCHKIT_CACHE_DIR": str(project.parent / "cache"),
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        **more,
    }


def torchrun(script: Path, world: int, *arguments: str, project: Path, timeout: float = 240) -> str:
    """Run a script in `world` gloo processes, and return what they printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*launcher, str(script), *arguments],
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
