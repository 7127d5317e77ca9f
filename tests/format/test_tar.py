"""Laws of tar headers: every tar reader takes them, and they depend on name and size alone."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchkit.format import tar

GIB = 1 << 30


@given(st.binary(min_size=1, max_size=100).filter(lambda name: b"\0" not in name), st.integers(0, 2**60))
def test_a_header_is_read_by_the_standard_library(name, size):
    info = tarfile.TarInfo.frombuf(tar.header(name, size), "utf-8", "surrogateescape")
    assert info.name.encode("utf-8", "surrogateescape").rstrip(b"/") == name.rstrip(b"/")
    assert (info.size, info.mode, info.mtime, info.uid, info.gid) == (size, 0o644, 0, 0, 0)
    assert info.isreg() or name.endswith(b"/")
    assert (info.uname, info.gname, info.linkname) == ("", "", "")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8 * GIB - 1])
def test_a_header_is_that_of_the_standard_library_but_for_device_numbers(size):
    info = tarfile.TarInfo("0123456789abcdef0123456789abcdef.0.png")
    info.size = size
    expected, got = info.tobuf(tarfile.USTAR_FORMAT), tar.header(info.name.encode(), size)
    assert len(got) == tar.BLOCK
    assert got[329:345] == b"0000000\0" * 2
    for part in (slice(148), slice(156, 329), slice(345, None)):  # between them checksum and device numbers
        assert got[part] == expected[part]


def test_sizes_from_8_gib_on_are_in_base_256():
    assert tar.header(b"x", 8 * GIB - 1)[124:136] == b"77777777777\0"
    assert tar.header(b"x", 8 * GIB)[124:136] == b"\x80" + (8 * GIB).to_bytes(11, "big")


def test_a_name_of_more_than_100_bytes_is_refused():
    tar.header(b"n" * 100, 0)
    with pytest.raises(ValueError, match="at most 100"):
        tar.header(b"n" * 101, 0)


@given(st.integers(0, 10_000))
def test_members_are_padded_to_whole_blocks(size):
    assert tar.padded(size) == size + len(tar.padding(size))
    assert tar.padded(size) % tar.BLOCK == 0
    assert len(tar.padding(size)) < tar.BLOCK
    assert not any(tar.padding(size))


def test_the_end_is_two_empty_blocks():
    data = tar.header(b"x", 3) + b"abc" + tar.padding(3) + tar.END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["x"]
        assert archive.extractfile("x").read() == b"abc"
    assert bytes(1024) == tar.END
