"""The source files of a folder: what is packed, what is left out and told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from benchkit.errors import ProjectError, UsageError
from benchkit.project import source_files
from benchkit.project.source_files import find_source_files, ignored_by_settings
from benchkit.settings import load_settings


def make(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())
    return folder


def test_files_are_found_in_order_and_secrets_are_named(tmp_path: Path) -> None:
    make(tmp_path, "b.py", "a/z.py", "a.py", ".env", "a/k.pem", ".ssh/id", "data/x", "a/__pycache__/z.pyc")
    found = find_source_files(tmp_path)
    assert found.paths == ["a.py", "a/z.py", "b.py"]
    assert sorted(found.secrets) == [".env", ".ssh/", "a/k.pem"]
    assert found.specials == []


def test_links_and_the_like_are_left_out_and_named_and_never_followed(tmp_path: Path) -> None:
    make(tmp_path / "outside", "x.py")
    folder = make(tmp_path / "in", "a.py")
    (folder / "file").symlink_to(tmp_path / "outside/x.py")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "data").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    found = find_source_files(folder)
    assert found.paths == ["a.py"]
    assert found.specials == ["file", "folder", "gone", "loop", "pipe", "socket"]


def test_environments_are_left_out_whatever_they_are_called(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.py",
        "env/model.py",
        "mine/pyvenv.cfg",
        "mine/lib/x.py",
        "conda/conda-meta/x",
        "conda/y.py",
    )
    assert find_source_files(tmp_path).paths == ["a.py", "env/model.py"]


def test_staging_store_and_cache_of_a_project_are_left_out_wherever_they_are(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(project, "a.py", "my store/benchkit.json", "chunks/x.tar", "ProjectDatasets/x", "storage.py")
    monkeypatch.setenv("BENCHKIT_CACHE_DIR", "chunks")
    for remote in ("my store", (project / "my store").as_uri()):
        (project / "benchkit.toml").write_text(f'[project]\nid = "a"\nremote = "{remote}"\n')
        ignored = ignored_by_settings(load_settings(project))
        assert find_source_files(project, also_ignore=ignored).paths == [
            "a.py",
            "benchkit.toml",
            "storage.py",
        ]


@pytest.mark.parametrize("name", ["a\\b.py", "a\x1b[2J.py", "a\udcff.py"])
def test_a_name_that_no_archive_may_have_is_an_error_that_says_what_to_do(name: str, tmp_path: Path) -> None:
    make(tmp_path, "good.py")
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=r"rename it, or leave it out by a line in \.benchkitignore"):
        find_source_files(tmp_path)


def test_too_much_is_refused_naming_what_is_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.py", "images/1", "images/2")
    (tmp_path / "images/3").write_bytes(bytes(5000))
    monkeypatch.setattr(source_files, "MAX_BYTES", 4000)
    with pytest.raises(UsageError, match=r"more than code.*such as /images, which has 5,0"):
        find_source_files(tmp_path)
    monkeypatch.setattr(source_files, "MAX_BYTES", 10_000)
    monkeypatch.setattr(source_files, "MAX_FILES", 3)
    with pytest.raises(UsageError, match="4 files of"):
        find_source_files(tmp_path)


def test_a_folder_without_code_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "data/x")
    with pytest.raises(ProjectError, match="holds no code"):
        find_source_files(tmp_path)
    with pytest.raises(ProjectError, match="cannot be read: No such file"):
        find_source_files(tmp_path / "nowhere")
