"""Laws of an open chunk: the right bytes of its own file, or an error."""

import os
from pathlib import Path

import pytest

from benchkit.errors import CacheError, CorruptError

TAR = os.urandom(100_000)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture
def opened(shop):
    with shop.open(shop.cache(), shop.add(TAR)) as chunk:
        yield chunk


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 100_000), (0, 0), (100_000, 0), (1, 1), (99_999, 1), (512, 7000)]
)
def test_a_read_gives_the_bytes_of_its_range(opened, offset, length):
    assert opened.read(offset, length) == TAR[offset : offset + length]
    assert opened.size == len(TAR)


def test_a_range_behind_the_end_is_an_error(opened):
    with pytest.raises(CorruptError, match="ends at 100000 of 100000 bytes"):
        opened.read(99_999, 2)


def test_a_file_that_becomes_shorter_under_a_reader_is_an_error_and_no_signal(opened):
    opened.path.chmod(0o600)
    os.truncate(opened.path, 50_000)
    assert opened.read(0, 50_000) == TAR[:50_000]
    with pytest.raises(CorruptError, match=r"chunk .* of train@1 is corrupt in the cache: .*50000 of 100000"):
        opened.read(49_999, 2)


def test_a_closed_chunk_says_so_and_can_be_closed_again(opened):
    assert not opened.closed
    opened.close()
    opened.close()
    assert opened.closed
    with pytest.raises(CacheError, match="open it again"):
        opened.read(0, 1)


def test_a_forked_child_has_it_closed_and_neither_reads_nor_closes_a_file_of_its_own(opened, fork):
    def child():
        # The numbers that the fork freed now name files of the child.
        others = [os.open("/dev/zero", os.O_RDONLY) for _ in range(64)]
        with pytest.raises(CacheError, match=f"not open in process {os.getpid()}"):
            opened.read(0, 1)
        opened.close()
        return opened.closed, [os.read(other, 1) for other in others] == [b"\0"] * 64

    assert fork(child).result() == (True, True)
    assert opened.read(0, 10) == TAR[:10]


def test_no_file_of_the_cache_stays_open_in_a_forked_child(shop, opened, fork):
    def child():
        return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]

    assert not [path for path in fork(child).result() if path.startswith(str(shop.cache_folder))]
