"""What all tests share: a project of their own, and a cache that is theirs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.making import make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty project, which is the current one."""
    folder = make_project(tmp_path / "project")
    monkeypatch.setenv("BENCHKIT_PROJECT", str(folder))
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("BENCHKIT_REMOTE", "BENCHKIT_CACHE_LIMIT_BYTES", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return folder
