"""Scratch projects for the commands: one that is made anew, and copies of one that is migrated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scratch import Scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Return a project of 40 small files, with nothing packed."""
    return Scratch.make(tmp_path / "scratch")


@pytest.fixture(scope="session")
def migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """Return a project of 40 files in three chunks, packed and uploaded; no test changes it."""
    project = Scratch.make(tmp_path_factory.mktemp("migrated") / "scratch", files=40, size=64 << 10)
    project.migrate("--zip", "--up", "--chunk-mib", "1", "--workers", "2")
    assert len(project.chunks("store")) == 3
    return project


@pytest.fixture
def copy_migrated(migrated_once: Scratch, tmp_path: Path) -> Callable[[str], Scratch]:
    """Return a function that copies the migrated project under a name, with an empty cache."""

    def copy(name: str) -> Scratch:
        shutil.copytree(migrated_once.root, tmp_path / name)
        return Scratch(tmp_path / name, tmp_path / f"{name}-cache")

    return copy


@pytest.fixture
def migrated(copy_migrated: Callable[[str], Scratch]) -> Scratch:
    """Return a copy of the migrated project."""
    return copy_migrated("scratch")
