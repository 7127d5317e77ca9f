"""Laws of unpacking the sample data."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from benchkit.errors import CorruptError, ProjectError
from benchkit.project import samples


def make_project(folder: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """Return a project whose sample archive has the entries."""
    (folder / "Datasets").mkdir(parents=True)
    with zipfile.ZipFile(folder / samples.SAMPLES_ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return folder


def link_entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_samples_are_unpacked_once_and_then_left_alone(tmp_path: Path) -> None:
    project = make_project(
        tmp_path / "p", [("digits/", b""), ("digits/1/a.png", b"one"), ("digits/2/b.png", b"")]
    )
    assert samples.unpack_samples(project)
    folder = project / "Datasets/digits"
    assert everything_below(folder) == {"1", "1/a.png", "2", "2/b.png"}
    assert (folder / "1/a.png").read_bytes() == b"one"

    (folder / "1/a.png").write_bytes(b"mine")
    assert not samples.unpack_samples(project)
    assert (folder / "1/a.png").read_bytes() == b"mine"


def test_a_project_without_the_archive_has_nothing_to_unpack(tmp_path: Path) -> None:
    assert not samples.unpack_samples(tmp_path)
    assert everything_below(tmp_path) == set()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("../evil.txt", b"x")], "outside the folder digits/"),
        ([("digits/../../evil.txt", b"x")], "outside the folder digits/"),
        ([("/digits/evil.txt", b"x")], "outside the folder digits/"),
        ([("digits\\..\\..\\evil.txt", b"x")], "outside the folder digits/"),
        ([("other/evil.txt", b"x")], "outside the folder digits/"),
        ([("digits", b"x")], "outside the folder digits/"),
        ([("digits/a\x1b[2J.png", b"x")], "unprintable"),
        ([(link_entry("digits/link"), b"/etc/passwd")], "no plain file"),
        ([("digits/a.png", b"x"), ("digits/a.png", b"y")], "there twice"),
        ([("digits/a.png", b"x"), ("digits/./a.png", b"y")], "there twice"),
        ([("digits/bomb", bytes(samples.MAX_ENTRY_BYTES + 1))], "more than"),
        ([(f"digits/{n}", bytes(samples.MAX_ENTRY_BYTES)) for n in range(65)], "are expected"),
        ([], "0 files"),
    ],
)
def test_a_hostile_zip_is_refused_and_leaves_nothing(
    tmp_path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], reason: str
) -> None:
    project = make_project(tmp_path / "p", [("digits/0/good.png", b"good"), *entries] if entries else [])
    with pytest.raises(CorruptError, match=reason) as refusal:
        samples.unpack_samples(project)
    assert "digits.zip" in str(refusal.value)
    assert everything_below(tmp_path) == {"p", "p/Datasets", "p/Datasets/digits.zip"}


def test_more_entries_than_allowed_are_refused(tmp_path: Path) -> None:
    entries = [zipfile.ZipInfo(f"digits/{n}") for n in range(samples.MAX_ENTRIES + 1)]
    with pytest.raises(CorruptError, match="10001 files"):
        samples.check_entries(entries, archive=tmp_path, top="digits")
    assert len(samples.check_entries(entries[1:], archive=tmp_path, top="digits")) == samples.MAX_ENTRIES


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "declared too small", "encrypted"])
def test_a_damaged_zip_is_refused_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    project = make_project(tmp_path / "p", [("digits/a.png", bytes(range(256)))])
    archive = project / samples.SAMPLES_ARCHIVE
    data = archive.read_bytes()
    directory = data.index(b"PK\x01\x02")
    match damage:
        case "flipped":
            data = flip(data, len("digits/a.png") + 30 + 20)
        case "truncated":
            data = data[: len(data) // 2]
        case "empty":
            data = b""
        case "declared too small":
            data = data[: directory + 24] + (8).to_bytes(4, "little") + data[directory + 28 :]
        case "encrypted":
            data = data[: directory + 8] + b"\x01" + data[directory + 9 :]
    archive.write_bytes(data)
    with pytest.raises(CorruptError, match=r"digits\.zip"):
        samples.unpack_samples(project)
    assert everything_below(tmp_path) == {"p", "p/Datasets", "p/Datasets/digits.zip"}


def test_a_folder_that_cannot_be_written_is_a_project_error(tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", [("digits/a", b"x"), ("digits/a/b", b"y")])
    with pytest.raises(ProjectError, match="cannot unpack"):
        samples.unpack_samples(project)
    assert everything_below(tmp_path) == {"p", "p/Datasets", "p/Datasets/digits.zip"}
