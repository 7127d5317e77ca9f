"""Laws of the cache's folder: the user's alone, swept, and emptied only of what nobody uses."""

import os
import stat

import pytest

from benchkit.errors import CacheError, StallError
from benchkit.store.locks import open_locked
from benchkit.stream.cache_folder import CacheFolder

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def folder(tmp_path):
    folder = CacheFolder(tmp_path / "far" / "cache")
    folder.prepare()
    return folder


def put(folder, digit, size, used_ns):
    path = folder.tar_path(digit * 64)
    path.write_bytes(bytes(size))
    os.utime(path, ns=(used_ns, used_ns))
    return path


def test_the_folder_is_made_for_the_user_alone(folder):
    for path in (folder.path, folder.chunks):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder.prepare()


def test_a_folder_that_others_may_enter_is_refused_with_the_command_that_mends_it(folder):
    folder.path.chmod(0o755)
    with pytest.raises(CacheError, match=rf'mode 0755\): run "chmod 700 {folder.path}"'):
        folder.prepare()
    (folder.path / "letters").mkdir()  # of somebody, as in /tmp, which is not to be closed
    with pytest.raises(CacheError, match=r"mode 0755\): choose another folder with BENCHKIT_CACHE_DIR$"):
        folder.prepare()
    folder.path.chmod(0o700)
    folder.prepare()


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheError, match="is no folder"):
        CacheFolder(tmp_path / "cache").prepare()


def test_a_link_of_ones_own_is_followed_and_what_it_leads_to_is_checked(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.path)
    CacheFolder(tmp_path / "link").prepare()
    folder.path.chmod(0o701)
    with pytest.raises(CacheError, match="mode 0701"):
        CacheFolder(tmp_path / "link").prepare()


@AS_ROOT
def test_a_folder_of_another_user_is_refused(folder):
    os.chown(folder.path, 1234, 1234)
    with pytest.raises(CacheError, match="another user"):
        folder.prepare()


@AS_ROOT
def test_a_link_of_another_user_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder.path)
    os.chown(tmp_path / "link", 1234, 1234, follow_symlinks=False)
    with pytest.raises(CacheError, match="is no folder"):
        CacheFolder(tmp_path / "link").prepare()


def test_tars_and_parts_count_and_other_files_do_not(folder):
    put(folder, "a", 100, 1)
    folder.part_path("b" * 64).write_bytes(bytes(20))
    (folder.chunks / "notes.txt").write_bytes(bytes(3))
    assert folder.used_bytes() == 120


def test_a_missing_folder_is_empty(tmp_path):
    assert CacheFolder(tmp_path / "none").used_bytes() == 0


def test_parts_of_the_dead_are_swept_and_of_the_living_kept(folder):
    folder.part_path("a" * 64).write_bytes(b"dead")
    with open_locked(folder.part_path("b" * 64), shared=False, create=True):
        folder.sweep()
        assert [path.name[0] for path in folder.chunks.iterdir()] == ["b"]
    folder.sweep()
    assert not list(folder.chunks.iterdir())


def test_the_least_recently_used_go_and_what_is_in_use_stays(folder):
    for used, digit in enumerate("abcd"):
        put(folder, digit, 10, used)
    with open_locked(folder.tar_path("a" * 64), shared=True):
        assert folder.free(15) == 20
    assert sorted(path.name[0] for path in folder.chunks.iterdir()) == ["a", "d"]


def test_a_reservation_counts_at_its_full_size_and_what_a_dead_process_reserved_does_not(folder):
    put(folder, "a", 60, 1)
    path = folder.part_path("b" * 64)
    path.write_bytes(bytes(70))
    with open_locked(folder.part_path("d" * 64), shared=False, create=True) as part:
        assert folder.reserve(part, size=40, limit_bytes=100) == 0
        assert folder.used_bytes() == 100
        with open_locked(folder.part_path("c" * 64), shared=False, create=True) as other:
            assert folder.reserve(other, size=61, limit_bytes=100) == 1
            assert folder.used_bytes() == 40
        assert not path.exists()


def test_a_file_that_took_the_place_of_a_removed_one_is_left_alone(folder):
    path = put(folder, "a", 10, 1)
    with open_locked(path, shared=True) as old:
        path.unlink()
        put(folder, "a", 10, 1)
        folder.remove(path, old)
        assert path.exists()
    with open_locked(path, shared=True) as now:
        folder.remove(path, now)
    assert not path.exists()


def test_a_folder_that_stays_locked_is_an_error_and_no_hang(folder):
    with (
        open_locked(folder.path / "cache.lock", shared=False, create=True),
        pytest.raises(StallError, match=r"cache\.lock has been locked by another process for 0\.2 s"),
    ):
        CacheFolder(folder.path, lock_seconds=0.2).free(1)
