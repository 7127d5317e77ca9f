"""The versions of a project's code: reproducible, whole or not at all, and nothing hostile gets through."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchkit.errors import CorruptError, FormatError, ProjectError, StoreError, UsageError
from benchkit.project.code_shelf import CodeReport, CodeShelf, describe_making, list_code_shelves, pack_code
from benchkit.project.code_version import ARCHIVE_NAME, CodeVersion
from benchkit.project.unpacking import unpack
from benchkit.settings import Settings, load_settings
from benchkit.store.base import Store
from benchkit.store.memory import MemoryStore

FILES = {"a.py": b"print(1)\n", "run.sh": b"#!/bin/sh\n", "src/b.py": b"2\n"}


@pytest.fixture
def settings(project: Path) -> Settings:
    for path, data in FILES.items():
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).write_bytes(data)
    (project / "run.sh").chmod(0o755)
    return load_settings(project)


def publish(code: CodeShelf, number: int | None = None, *, force: bool = False) -> CodeReport:
    with pack_code(code.settings) as packed:
        plan = code.plan(packed.files, number, force=force)
        return code.publish(packed, plan, describe_making(code.settings, code.store, []))


def fetch(code: CodeShelf, version: CodeVersion, folder: Path) -> dict[str, bytes]:
    with code.opened(version) as archive:
        unpack(archive, version.files, folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_published_is_fetched_the_same(settings: Settings, tmp_path: Path) -> None:
    code = CodeShelf(settings, MemoryStore())
    report = publish(code)
    assert (report.new, report.version.number, dict(report.changes)) == (True, 1, {})
    toml = (settings.project / "benchkit.toml").read_bytes()
    assert fetch(code, code.find(1), tmp_path / "out") == {**FILES, "benchkit.toml": toml}
    assert (tmp_path / "out/run.sh").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "out/a.py").stat().st_mode & stat.S_IXUSR


def test_two_clones_make_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        clone = shutil.copytree(settings.project, tmp_path / "clone", copy_function=shutil.copyfile)
    finally:
        os.umask(before)
    (clone / "run.sh").chmod(0o700)
    os.utime(clone / "a.py", (1, 1))
    archives = []
    for folder in (settings.project, clone):
        code = CodeShelf(load_settings(folder), MemoryStore())
        version = publish(code).version
        archives.append((version.archive.digest, version.files))
    assert archives[0] == archives[1]


def test_an_unchanged_project_makes_no_new_version(settings: Settings) -> None:
    code = CodeShelf(settings, MemoryStore())
    first = publish(code).version
    for number in (None, 1, 2):
        report = publish(code, number)
        assert (report.new, report.version.bundle) == (False, first.bundle)
    (settings.project / "a.py").write_bytes(b"3\n")
    (settings.project / "src/b.py").unlink()
    (settings.project / "new.py").write_bytes(b"")
    report = publish(code)
    assert (report.version.number, dict(report.changes)) == (2, {"a.py": "~", "new.py": "+", "src/b.py": "-"})
    (settings.project / "run.sh").chmod(0o644)
    assert dict(publish(code).changes) == {"run.sh": "~"}


def test_a_number_is_the_next_or_one_that_is_replaced(settings: Settings, tmp_path: Path) -> None:
    code = CodeShelf(settings, MemoryStore())
    with pytest.raises(UsageError, match="version 2 would leave a gap: the next is 1"):
        publish(code, 2)
    publish(code, 1)
    (settings.project / "a.py").write_bytes(b"2\n")
    publish(code, 2)
    (settings.project / "a.py").write_bytes(b"3\n")
    with pytest.raises(UsageError, match="version 1 is there already, with other files"):
        publish(code, 1)
    report = publish(code, 1, force=True)
    assert report.replaced is not None
    assert (report.version.number, report.replaced.number, dict(report.changes)) == (1, 1, {"a.py": "~"})
    assert [version.number for version in code.versions()] == [1, 2]
    assert fetch(code, code.find(1), tmp_path / "out")["a.py"] == b"3\n"
    code.shelf.remove(code.find(1).bundle)
    with pytest.raises(UsageError, match="version 1 would leave a gap: the next is 3"):
        publish(code, 1)


def test_code_is_said_to_be_made_with_what_it_was_made_with(settings: Settings) -> None:
    git = ["git", "-C", str(settings.project), "-c", "user.name=a", "-c", "user.email=a@b"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("no git here")
    for command in (["add", "."], ["commit", "-qm", "1"]):
        subprocess.run([*git, *command], check=True)
    revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    made = describe_making(settings, MemoryStore(), ["train"])
    assert (made.revision, made.dirty) == (revision.strip(), False)
    assert [dataset.label for dataset in made.datasets or ()] == ["train (not uploaded)"]
    assert made.torch
    (settings.project / "a.py").write_bytes(b"")
    assert describe_making(settings, MemoryStore(), None).dirty is True
    assert describe_making(settings, MemoryStore(), None).datasets is None


class Failing(MemoryStore):
    """A store that fails in its n-th write."""

    writes = 99

    def write(self, name: str, source: bytes | Path) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise StoreError("the line is cut")
        super().write(name, source)


@pytest.mark.parametrize("writes", [0, 1])
def test_an_upload_that_is_cut_off_makes_no_version_and_is_done_again(
    writes: int, settings: Settings
) -> None:
    store = Failing()
    code = CodeShelf(settings, store)
    publish(code)
    (settings.project / "a.py").write_bytes(b"2\n")
    for number, force in ((None, False), (1, True)):
        store.writes = writes
        with pytest.raises(StoreError, match="the line is cut"):
            publish(code, number, force=force)
        assert [(version.number, version.files[0].size) for version in code.versions()] == [(1, 9)]
    store.writes = 99
    assert publish(code).version.number == 2


def test_another_projects_code_is_not_taken_for_ones_own(settings: Settings) -> None:
    store = MemoryStore()
    publish(CodeShelf(settings, store))
    other = CodeShelf(dataclasses.replace(settings, project_id="other"), store)
    assert other.versions() == []
    report = publish(other)
    assert (report.new, report.version.number) == (True, 1)
    other.shelf.remove(report.version.bundle)
    assert [version.number for version in CodeShelf(settings, store).versions()] == [1]
    assert [shelf.name for shelf in list_code_shelves(store)] == ["trial"]
    for shelf in (other.shelf, CodeShelf(settings, store).shelf):
        moved = dataclasses.replace(shelf, name="third")
        for bundle in moved.versions():
            with pytest.raises(CorruptError, match="of code 'third' belongs to something else: code 'trial'"):
                moved.read(bundle)


@pytest.mark.parametrize("project_id", ["a/b", "..", "a b", "x" * 101, "-a"])
def test_an_id_that_cannot_name_code_is_refused(project_id: str, settings: Settings) -> None:
    with pytest.raises(ProjectError, match=r"benchkit\.toml: the project's id names its code"):
        CodeShelf.of(dataclasses.replace(settings, project_id=project_id))


def replace_archive(code: CodeShelf, data: bytes, **details: Any) -> CodeVersion:
    """Publish a version with the archive and, in parts, the details of somebody who means harm."""
    good = publish(code).version
    into = good.record.folder[:-8] + "ffffffff"
    folder = code.settings.project.parent / "hostile"
    folder.mkdir(exist_ok=True)
    (folder / ARCHIVE_NAME).write_bytes(data)
    sent = code.shelf.send(folder, into=into)
    code.shelf.publish(sent, into=into, details={**good.record.details, **details})
    return code.find(2)


def hostile_zip(name: str, data: bytes = b"x", mode: int = 0o100644) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, data)
        archive.comment = b" " * 60_000  # larger than what the record says to be in it
    return output.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "mode"),
    [
        ("../a.py", b"x", 0o100644),
        ("/tmp/a.py", b"x", 0o100644),
        ("a.py", b"/etc/passwd", stat.S_IFLNK | 0o777),
        ("a.py", b"", stat.S_IFCHR | 0o666),
        ("a.py", bytes(50 << 20), 0o100644),
        ("more.py", b"x", 0o100644),
    ],
)
def test_a_hostile_archive_writes_nothing_anywhere(
    name: str, data: bytes, mode: int, settings: Settings, tmp_path: Path
) -> None:
    code = CodeShelf(settings, MemoryStore())
    version = replace_archive(code, hostile_zip(name, data, mode))
    with pytest.raises(CorruptError):
        fetch(code, version, tmp_path / "target" / "out")
    assert not list((tmp_path / "target").rglob("*"))


@pytest.mark.parametrize(
    "details",
    [
        {"files": [{"path": "../a", "bytes": 1, "digest": "0" * 64, "executable": False}]},
        {"files": [{"path": "a", "bytes": 1, "digest": "0" * 64, "executable": 1}]},
        {"files": [{"path": "a", "bytes": -1, "digest": "0" * 64, "executable": False}]},
        {"files": [{"path": "a", "bytes": 1, "digest": "0", "executable": False}]},
        {"files": [{"path": p, "bytes": 0, "digest": "0" * 64, "executable": False} for p in "ba"]},
        {"files": [{"path": "a", "bytes": 1 << 50, "digest": "0" * 64, "executable": False}]},
        {"files": {}},
        {"datasets": [{"name": "train", "version": "1", "manifest": None}]},
        {"git": {"revision": 5, "dirty": None}},
        {"python": None},
        {"unknown": 1},
    ],
)
def test_a_hostile_record_is_refused(details: dict[str, Any], settings: Settings) -> None:
    code = CodeShelf(settings, MemoryStore())
    with pytest.raises((FormatError, CorruptError)):
        replace_archive(code, hostile_zip("a.py"), **details)


def test_an_archive_larger_than_any_is_refused_before_it_is_fetched(settings: Settings) -> None:
    code = CodeShelf(settings, MemoryStore())
    version = publish(code).version
    huge = dataclasses.replace(version, archive=dataclasses.replace(version.archive, size=1 << 50))
    with pytest.raises(CorruptError, match="is refused: its archive has"), code.opened(huge):
        pass


def test_a_flipped_byte_is_noticed(settings: Settings, tmp_path: Path) -> None:
    store = MemoryStore()
    code = CodeShelf(settings, store)
    version = publish(code).version
    name = next(info.name for info in store.list("code/trial/files/"))
    data = bytearray(store.read(name))
    data[100] ^= 1
    store.write(name, bytes(data))
    with pytest.raises(CorruptError, match="is corrupt"):
        fetch(code, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packing_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    store: Store = MemoryStore()
    code = CodeShelf(settings, store)
    with code.opened(publish(code).version):
        pass
    assert os.listdir(tmp_path / "tmp") == []
    assert os.listdir(settings.project / ".benchkit") == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="cannot be kept"), code.opened(code.find(1)):
        pass
    (settings.project / ".benchkit").rmdir()
    (settings.project / ".benchkit").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be packed"), pack_code(settings):
        pass


def test_what_a_killed_process_was_packing_is_swept_by_the_next(settings: Settings) -> None:
    script = (
        "import os; from benchkit.project.code_shelf import pack_code; from benchkit.settings import *\n"
        "with pack_code(load_settings()): os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        assert len(os.listdir(settings.project / ".benchkit")) == 1
    with pack_code(settings) as packed:
        assert os.listdir(settings.project / ".benchkit") == [packed.folder.name]
        assert len(packed.files) == len(FILES) + 1
    assert os.listdir(settings.project / ".benchkit") == []
