"""The diff of two states of code: git applies it to the one and gets the other."""

from __future__ import annotations

import io
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchkit.format.archive import open_archive, write_archive
from benchkit.project.code_diff import MAX_TEXT_BYTES, ArchiveTree, diff_text, diff_trees

OLD = {
    "same.py": b"x\n",
    "changed.py": b"".join(b"line %d\n" % n for n in range(30)),
    "gone.py": b"1\n2\n",
    "no end.txt": b"a\nb",
    "with blank.py": b"1\n",
    "empty": b"",
    "run.sh": b"#!/bin/sh\n",
    "cr.txt": b"a\r\nb\rc\x0cd\n",
    "\xe9.txt": "é\n".encode(),
}
NEW = OLD | {
    "changed.py": OLD["changed.py"].replace(b"line 3\n", b"line three\n") + b"end\n",
    "no end.txt": b"a\nc",
    "with blank.py": b"2\n",
    "empty": b"now\n",
    "new/file.py": b"new\n",
    "new/empty": b"",
    "cr.txt": b"a\r\nB\rc\x0cd\n",
    "\xe9.txt": "è\n".encode(),
}
del NEW["gone.py"]


def make(folder: Path, files: dict[str, bytes], executable: str) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / executable).chmod(0o755)
    return folder


def diff(old: Path, new: Path) -> str:
    with ExitStack() as stack:
        trees = []
        for folder in (old, new):
            output = io.BytesIO()
            paths = sorted(
                path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
            )
            files = write_archive(output, folder, paths)
            trees.append(ArchiveTree(stack.enter_context(open_archive(output, name="x")), files))
        return "".join(diff_trees(*trees))


def test_git_applies_the_diff(tmp_path: Path) -> None:
    old, new = make(tmp_path / "old", OLD, "same.py"), make(tmp_path / "new", NEW, "run.sh")
    text = diff(old, new)
    try:
        subprocess.run(["git", "apply", "-"], input=text.encode(), cwd=old, check=True)
    except FileNotFoundError:
        pytest.skip("no git here to apply it")
    assert {p.relative_to(old).as_posix(): p.read_bytes() for p in old.rglob("*") if p.is_file()} == NEW
    assert diff(old, new) == ""


def test_what_is_no_text_or_too_large_is_only_said_to_differ(tmp_path: Path) -> None:
    large = b"x\n" * MAX_TEXT_BYTES
    for before, after in ((b"\0", b"1"), (b"1", b"\xff"), (large, b"1")):
        assert list(diff_text(before, after, path="f")) == ["Binary files a/f and b/f differ\n"]
    assert list(diff_text(None, b"\0", path="f")) == ["Binary files /dev/null and b/f differ\n"]


def test_the_same_code_has_no_diff(tmp_path: Path) -> None:
    assert diff(make(tmp_path / "a", OLD, "run.sh"), make(tmp_path / "b", OLD, "run.sh")) == ""
