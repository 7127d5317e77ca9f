"""An archive of code: the same bytes from the same files, and nothing believed that one says."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from benchkit.errors import CorruptError, StoreError
from benchkit.format import archive as archive_module
from benchkit.format.archive import ArchiveFile, open_archive, write_archive
from benchkit.format.digests import digest_bytes

FILES = {"a.py": b"print(1)\n", "empty": b"", "run.sh": b"#!/bin/sh\n", "src/é b.txt": "ü\n".encode()}
# Written down once; it may change only with a new way of packing, which makes new versions of unchanged code.
GOLDEN = "bf5b10cebd317a7df5965a84b282507a3263a4ba91e35ff7e80bbadcc91be737"


def make(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for path, data in (files or FILES).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        (folder / path).chmod(0o755 if path.endswith(".sh") else 0o644)
    return folder


def pack(folder: Path, paths: list[str] | None = None) -> bytes:
    output = io.BytesIO()
    write_archive(output, folder, paths or sorted(FILES))
    return output.getvalue()


def read_all(data: bytes, **options: int) -> dict[str, bytes]:
    with open_archive(io.BytesIO(data), name="a.zip", **options) as archive:
        return {file.path: b"".join(archive.read(file)) for file in archive.files}


def test_what_is_packed_comes_back_with_its_executable_bits(tmp_path: Path) -> None:
    output = io.BytesIO()
    files = write_archive(output, make(tmp_path), sorted(FILES))
    assert [(f.path, f.size, f.executable, f.digest) for f in files] == [
        (path, len(data), path == "run.sh", digest_bytes(data)) for path, data in sorted(FILES.items())
    ]
    assert read_all(output.getvalue()) == FILES
    with open_archive(output, name="a.zip") as archive:
        assert [(f.path, f.executable, f.digest) for f in archive.files] == [
            (path, path == "run.sh", None) for path in sorted(FILES)
        ]


def test_the_bytes_depend_on_paths_contents_and_executable_bits_alone(tmp_path: Path) -> None:
    first = make(tmp_path / "one")
    before = os.umask(0o077)
    try:
        second = make(tmp_path / "elsewhere" / "two")
    finally:
        os.umask(before)
    for number, path in enumerate(sorted(FILES, reverse=True)):
        os.utime(second / path, (1e9 + number, 2e9 + number))
        (second / path).chmod(0o700 if path == "run.sh" else 0o600)
    assert pack(first) == pack(second)
    assert digest_bytes(pack(first)) == GOLDEN
    (second / "a.py").chmod(0o700)
    assert pack(first) != pack(second)


def test_a_stranger_opens_it(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(pack(make(tmp_path / "in")))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    assert {path: (tmp_path / "out" / path).read_bytes() for path in FILES} == FILES
    try:
        subprocess.run(["unzip", "-q", "../a.zip"], cwd=make(tmp_path / "un", {"x": b""}), check=True)
    except FileNotFoundError:
        pytest.skip("no unzip here; Python's zipfile has opened it")
    assert (tmp_path / "un/run.sh").stat().st_mode & stat.S_IXUSR
    assert (tmp_path / "un/a.py").read_bytes() == FILES["a.py"]


def test_a_file_that_changes_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    make(tmp_path)

    class Growing(io.BytesIO):
        def write(self, data: object) -> int:
            with open(tmp_path / "a.py", "ab") as file:
                file.write(b"#")
            return super().write(data)  # type: ignore[arg-type]

    with pytest.raises(StoreError, match=r"a\.py changed while it was packed"):
        write_archive(Growing(), tmp_path, ["a.py"])


def zip_of(*members: tuple[str, bytes], mode: int = 0o100644, compression: int = zipfile.ZIP_STORED) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as archive:
        for name, data in members:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            entry.external_attr = mode << 16
            entry.compress_type = compression
            archive.writestr(entry, data)
    return output.getvalue()


def test_a_compressed_zip_of_another_maker_is_read() -> None:
    data = zip_of(("src/", b""), ("src/a.py", b"a" * 5000), mode=0, compression=zipfile.ZIP_DEFLATED)
    assert read_all(data) == {"src/a.py": b"a" * 5000}


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../../b", "/etc/passwd", "a//b", "./a", "C:\\a", "a\\..\\b", "a\x1b[2Jb", "a\x00b", "\x00"],
)
def test_a_member_that_is_no_path_in_a_folder_is_refused(name: str) -> None:
    with pytest.raises(CorruptError, match=r"no path in a folder|cannot be read"):
        read_all(zip_of(("good", b"1"), (name, b"2")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int) -> None:
    with pytest.raises(CorruptError, match="no plain file"):
        read_all(zip_of(("link", b"/etc/passwd"), mode=kind | 0o777))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_path_that_is_there_twice_or_as_a_folder_too_is_refused() -> None:
    with pytest.raises(CorruptError, match="a member twice"):
        read_all(zip_of(("a", b"1"), ("a", b"2")))
    with pytest.raises(CorruptError, match="as a file and as a folder"):
        read_all(zip_of(("a", b"1"), ("a/b", b"2")))


def test_a_bomb_is_refused_before_anything_is_unpacked() -> None:
    bomb = zip_of(("zeros", bytes(3 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10_000
    with pytest.raises(CorruptError, match=r"would give over 1,048,576 bytes"):
        read_all(bomb, max_bytes=1 << 20)


def test_a_member_that_gives_other_bytes_than_it_says_is_corrupt() -> None:
    bomb = bytearray(zip_of(("zeros", bytes(3 << 20)), compression=zipfile.ZIP_DEFLATED))
    directory = bomb.rindex(b"PK\1\2")
    for size in (100, 4 << 20):
        bomb[directory + 24 : directory + 28] = struct.pack("<L", size)
        with pytest.raises(CorruptError, match="zeros"):
            read_all(bytes(bomb))


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6])
def test_a_flipped_byte_is_noticed(position: float, tmp_path: Path) -> None:
    data = bytearray(pack(make(tmp_path, {"a": bytes(5000)}), ["a"]))
    data[int(4900 * position) + 40] ^= 1
    with pytest.raises(CorruptError):
        read_all(bytes(data))


def test_a_digest_that_does_not_fit_is_noticed(tmp_path: Path) -> None:
    data = pack(make(tmp_path))
    with open_archive(io.BytesIO(data), name="a.zip") as archive:
        file = ArchiveFile(
            path="a.py", size=len(FILES["a.py"]), executable=False, digest=digest_bytes(b"other")
        )
        with pytest.raises(CorruptError, match="not what was packed"):
            list(archive.read(file))


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all" * 100, b"PK\5\6" + bytes(5)])
def test_what_is_no_zip_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError, match=r"a\.zip is no zip"):
        read_all(data)


def test_an_unknown_compression_and_a_password_are_refused() -> None:
    with pytest.raises(CorruptError, match="compression that is not read"):
        read_all(zip_of(("a", b"1"), compression=zipfile.ZIP_BZIP2))
    data = bytearray(zip_of(("a", b"1")))
    data[data.rindex(b"PK\1\2") + 8] |= 1
    with pytest.raises(CorruptError, match="encrypted"):
        read_all(bytes(data))


def test_too_many_members_are_refused_before_the_directory_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zip_of(*((f"f{number}", b"") for number in range(50)))
    monkeypatch.setattr(archive_module, "MAX_FILES", 40)
    with pytest.raises(CorruptError, match="over 40 files"):
        read_all(data)
    monkeypatch.setattr(archive_module, "MAX_DIRECTORY_BYTES", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(CorruptError, match="over 40 files, or is a zip64"):
        read_all(data)


def test_a_zip64_is_refused() -> None:
    data = zip_of(("a", b"1"))
    end = data.rindex(b"PK\5\6")
    locator = b"PK\6\7" + bytes(16)
    with pytest.raises(CorruptError, match="zip64"):
        read_all(data[:end] + locator + data[end:])
