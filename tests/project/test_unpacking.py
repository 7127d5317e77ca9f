"""Unpacking: whole into a new folder, and beside what stands in an old one, never over it unasked."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchkit.errors import CorruptError, StoreError, UsageError
from benchkit.format.archive import ArchiveFile, open_archive, write_archive
from benchkit.project.unpacking import Unpacked, unpack

FILES = {"a.py": b"1", "run.sh": b"2", "src/b.py": b"3"}
Run = Callable[..., Unpacked]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    source = tmp_path / "source"
    for path, data in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    (source / "run.sh").chmod(0o755)

    def unpack_into(
        folder: Path, *, force: bool = False, change: Callable[..., object] | None = None
    ) -> Unpacked:
        output = io.BytesIO()
        files = write_archive(output, source, sorted(FILES))
        with open_archive(output, name="a.zip") as archive:
            return unpack(archive, [change(file) if change else file for file in files], folder, force=force)  # type: ignore[misc]

    return unpack_into


def test_a_new_folder_has_the_files_and_their_executable_bits(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "deep/er/new", tmp_path / "empty"):
        assert run(folder).written == tuple(sorted(FILES))
        assert contents(folder) == FILES
        assert [p.name for p in folder.rglob("*") if p.is_file() and p.stat().st_mode & stat.S_IXUSR] == [
            "run.sh"
        ]


def test_the_umask_decides_who_else_reads(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(tmp_path / "new")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE((tmp_path / "new" / path).stat().st_mode) for path in FILES}
    assert modes == {"a.py": 0o600, "run.sh": 0o700, "src/b.py": 0o600}


def test_files_that_stand_there_otherwise_are_never_replaced_unasked(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    (folder / "src").mkdir(parents=True)
    (folder / "src/b.py").write_bytes(b"mine")
    (folder / "other").write_bytes(b"4")
    before = contents(folder)
    with pytest.raises(UsageError, match=r"'src/b\.py' in .* would be replaced: add --force"):
        run(folder)
    assert contents(folder) == before
    assert sorted(os.listdir(folder)) == ["other", "src"]
    done = run(folder, force=True)
    assert (done.written, done.replaced, done.same) == (("a.py", "run.sh"), ("src/b.py",), ())
    assert contents(folder) == {**FILES, "other": b"4"}
    again = run(folder)
    assert (again.written, again.replaced, again.same) == ((), (), tuple(sorted(FILES)))
    assert sorted(os.listdir(folder)) == ["a.py", "other", "run.sh", "src"]


def test_another_executable_bit_counts_as_another_file(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "old")
    (tmp_path / "old/run.sh").chmod(0o644)
    with pytest.raises(UsageError, match=r"run\.sh"):
        run(tmp_path / "old")
    assert run(tmp_path / "old", force=True).replaced == ("run.sh",)
    assert (tmp_path / "old/run.sh").stat().st_mode & stat.S_IXUSR


def test_nothing_is_written_through_links(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "src").symlink_to(outside)
    for force in (False, True):
        with pytest.raises(UsageError, match="in the way of the folder 'src'"):
            run(folder, force=force)
    (folder / "src").unlink()
    (outside / "target").write_bytes(b"safe")
    (folder / "a.py").symlink_to(outside / "target")
    with pytest.raises(UsageError, match=r"'a\.py'"):
        run(folder)
    run(folder, force=True)
    assert contents(outside) == {"target": b"safe"}
    assert contents(folder) == FILES
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is no folder"):
        run(tmp_path / "link")


def test_a_scratch_folder_that_is_a_link_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / ".benchkit").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is a link"):
        run(folder, force=True)


def test_a_folder_in_the_way_of_a_file_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    (folder / "a.py").mkdir(parents=True)
    (folder / "a.py/x").write_bytes(b"")
    with pytest.raises(UsageError, match="in the way of a file, and a folder"):
        run(folder, force=True)
    assert sorted(os.listdir(folder)) == ["a.py"]


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path) -> None:
    class FullDisk:
        def read(self, file: ArchiveFile) -> Iterator[bytes]:
            yield b"1"
            raise OSError(errno.ENOSPC, "No space left on device")

    files = [ArchiveFile(path="a.py", size=2, executable=False)]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a.py").write_bytes(b"mine")
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(StoreError, match=r"cannot be written: .*No space left"):
            unpack(FullDisk(), files, folder, force=True)  # type: ignore[arg-type]
    assert contents(tmp_path) == {"old/a.py": b"mine"}


def test_a_file_that_is_not_what_was_packed_leaves_everything_as_it_was(run: Run, tmp_path: Path) -> None:
    def lie(file: ArchiveFile) -> ArchiveFile:
        digest = "0" * 64 if file.path == "src/b.py" else file.digest
        return ArchiveFile(path=file.path, size=file.size, executable=file.executable, digest=digest)

    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "a.py").write_bytes(b"mine")
    for place in (tmp_path / "new", folder):
        with pytest.raises(CorruptError, match="not what was packed"):
            run(place, force=True, change=lie)
    assert not (tmp_path / "new").exists()
    assert contents(folder) == {"a.py": b"mine"}
