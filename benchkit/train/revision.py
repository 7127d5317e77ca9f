"""The revision of a project's code, as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from benchkit.settings import child_environment

_GIT_SECONDS = 10


def describe_code(project: Path) -> dict[str, Any]:
    """Return the git revision of the project's folder, and whether tracked files in it differ from that.

    Empty where the folder is in no repository, or git is missing or slow.
    """
    revision = _git(project, "rev-parse", "HEAD")
    if not revision:
        return {}
    changes = _git(project, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"revision": revision, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env=child_environment({"GIT_OPTIONAL_LOCKS": "0"}, defaults={}),  # a reader takes no lock
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="backslashreplace").strip() if done.returncode == 0 else None
