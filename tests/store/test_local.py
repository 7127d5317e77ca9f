"""The local folder keeps the contract, and survives kills, full disks, links and forks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest
from store.contract import StoreContract
from support.locking import is_free, is_free_soon

from benchkit.errors import ObjectNotFoundError, StoreError, UsageError
from benchkit.store.base import Unfinished
from benchkit.store.local import TEMPORARY, LocalStore


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "a store ü")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def left_over(store: LocalStore) -> list[str]:
    return sorted(os.listdir(store.root / TEMPORARY))


def run_in_child(work: Callable[[], object]) -> int:
    """Run the function in a forked child, and return its exit status: 0, or 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        end_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def end_child(work: Callable[[], object]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def test_an_object_is_a_file_of_its_name_readable_by_others(store: LocalStore) -> None:
    store.write("a/b c", b"data")
    path = store.root / "a" / "b c"
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert left_over(store) == []


def test_deleting_removes_the_folders_left_empty_but_not_the_root(store: LocalStore) -> None:
    store.write("a/b/c/d", b"data")
    store.write("a/e", b"data")
    store.delete("a/b/c/d")
    assert not (store.root / "a" / "b").exists()
    store.delete("a/e")
    assert not (store.root / "a").exists()
    assert store.root.is_dir()


@pytest.mark.parametrize("name", ["a", "a/b/c", "a/b/c/d"])
def test_an_object_cannot_also_be_a_folder_and_the_error_is_no_missing_object(
    store: LocalStore, name: str
) -> None:
    store.write("a/b", b"data")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        store.write(name, b"other")
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert store.read("a/b") == b"data"
    assert left_over(store) == []


def test_the_stores_own_folder_is_neither_listed_nor_named(store: LocalStore) -> None:
    with store.temporary() as temporary:
        temporary.file.write(b"half")
        assert list(store.list()) == []
        for name in (TEMPORARY, f"{TEMPORARY}/{temporary.path.name}"):
            with pytest.raises(UsageError, match="the store's own"):
                store.read(name)
            with pytest.raises(UsageError, match="the store's own"):
                store.delete(name)
    store.write(f"a/{TEMPORARY}/b", b"only at the top")
    assert [info.name for info in store.list()] == [f"a/{TEMPORARY}/b"]


def test_an_adopted_temporary_file_is_the_object(store: LocalStore) -> None:
    with store.temporary() as temporary:
        temporary.file.write(b"made in ")
        temporary.file.write(b"pieces")
        assert store.stat("a/b") is None
        store.adopt(temporary, "a/b")
    assert store.read("a/b") == b"made in pieces"
    assert left_over(store) == []


def test_a_temporary_file_not_adopted_is_removed_whatever_ends_it(store: LocalStore) -> None:
    with store.temporary() as temporary:
        temporary.file.write(b"data")
    assert left_over(store) == []
    with pytest.raises(KeyboardInterrupt), store.temporary():
        raise KeyboardInterrupt
    assert left_over(store) == []


def test_an_error_of_the_caller_passes_through_a_temporary_file_as_it_is(store: LocalStore) -> None:
    with pytest.raises(FileNotFoundError, match="the user's"), store.temporary():
        raise FileNotFoundError("the user's")


def test_a_temporary_file_that_somebody_removed_is_an_error_and_no_endless_loop(store: LocalStore) -> None:
    with store.temporary() as temporary:
        temporary.path.unlink()
        with pytest.raises(StoreError, match="cannot be written"):
            store.adopt(temporary, "a")
    assert store.stat("a") is None


WRITER = """
import sys, time
from pathlib import Path
from benchkit.store.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
with store.temporary() as temporary:
    temporary.file.write(b"x" * 3_000_000)
    temporary.file.flush()
    print("writing", flush=True)
    time.sleep(60)
    store.adopt(temporary, "a")
"""


def sweep(store: LocalStore) -> int:
    """Sweep, and return how many temporary files of dead processes that were."""
    left = list(store.unfinished())
    store.sweep()
    return len(left)


def test_a_killed_writer_leaves_no_object_and_a_temporary_file_that_the_sweep_removes(
    store: LocalStore,
) -> None:
    with store.temporary() as alive:
        alive.file.write(b"kept")
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            assert len(left_over(store)) == 2
            assert sweep(store) == 0
            writer.send_signal(signal.SIGKILL)
        assert store.stat("a") is None
        assert list(store.list()) == []
        assert sweep(store) == 1
        assert left_over(store) == [alive.path.name]
        store.adopt(alive, "a")
    assert store.read("a") == b"kept"
    assert sweep(store) == 0


def test_sweeping_leaves_alone_what_it_cannot_open(store: LocalStore, tmp_path: Path) -> None:
    assert sweep(store) == 0
    (store.root / TEMPORARY / "folder").mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"data")
    (store.root / TEMPORARY / "link").symlink_to(tmp_path / "elsewhere")
    (store.root / TEMPORARY / "old").write_bytes(b"data")
    assert sweep(store) == 1
    assert left_over(store) == ["folder", "link"]
    assert (tmp_path / "elsewhere").exists()


def test_what_a_killed_writer_left_is_told_with_its_size_and_discarded_once(store: LocalStore) -> None:
    path = store.root / TEMPORARY / "old"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"data")
    os.utime(path, (7, 7))
    [left] = store.unfinished()
    assert left == Unfinished(key="old", name="", size=4, modified=7, abandoned=True)
    with store.temporary() as alive:
        store.discard(Unfinished(key=alive.path.name, name="", size=0, modified=0))
        assert alive.path.exists()
    store.discard(left)
    store.discard(left)
    assert list(store.unfinished()) == []


def test_an_objects_time_is_when_it_came_to_be_there(store: LocalStore) -> None:
    with store.temporary() as temporary:
        os.utime(temporary.path, (7, 7))
        before = time.time() - 1
        store.adopt(temporary, "a")
    info = store.stat("a")
    assert info
    assert info.modified > before


def test_an_objects_time_is_not_before_the_folders_that_had_to_be_made_for_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def make_slowly(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(0.1)
        made.append(time.time() - 0.05)  # the file system's clock is behind by a little

    monkeypatch.setattr("benchkit.store.local.make_folder", make_slowly)
    store.write("a/b", b"1")
    info = store.stat("a/b")
    assert info
    assert info.modified > made[-1]


def test_the_folders_that_lead_to_a_new_store_are_made_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    LocalStore(tmp_path / "a" / "b").write("c/d", b"1")
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert {folder.stat().st_ino for folder in folders} <= synced


def test_sweeping_beside_writers_removes_nothing_of_theirs(store: LocalStore) -> None:
    done, failed = threading.Event(), []

    def write_many() -> None:
        try:
            for number in range(60):
                store.write(f"a/{number}", b"%d" % number)
        except StoreError as error:
            failed.append(error)

    def sweep_all_the_time() -> None:
        while not done.is_set():
            store.sweep()

    writers = [threading.Thread(target=write_many) for _ in range(2)]
    sweeper = threading.Thread(target=sweep_all_the_time)
    for thread in (*writers, sweeper):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    sweeper.join()
    assert failed == []
    assert len(list(store.list())) == 60


def limit_file_size(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [200_000, 5_000_000])
def test_a_full_disk_is_a_store_error_and_leaves_nothing(
    store: LocalStore, tmp_path: Path, size: int
) -> None:
    store.write("a", b"the old one")
    source = tmp_path / "source"
    source.write_bytes(b"x" * size)

    def write() -> None:
        limit_file_size(100_000)
        for content in (b"x" * size, source):
            with pytest.raises(StoreError, match=r"the disk of .* is full"):
                store.write("a", content)

    def fill_temporary() -> None:
        with store.temporary() as temporary:
            temporary.file.write(b"x" * size)
            store.adopt(temporary, "a")

    def adopt() -> None:
        limit_file_size(100_000)
        with pytest.raises(StoreError, match=r"the disk of .* is full"):
            fill_temporary()

    assert run_in_child(write) == 0
    assert run_in_child(adopt) == 0
    assert left_over(store) == []
    assert store.read("a") == b"the old one"
    assert [info.name for info in store.list()] == ["a"]


def test_a_link_that_leaves_the_root_is_refused_and_not_listed(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.write("there", b"data")
    (store.root / "folder").symlink_to(outside)
    (store.root / "file").symlink_to(outside / "secret")
    (store.root / "dangling").symlink_to(outside / "missing")
    for name in ("folder/secret", "file", "dangling"):
        for use in (store.read, store.stat, store.delete, lambda name: list(store.stream(name))):
            with pytest.raises(StoreError, match="link"):
                use(name)
        with pytest.raises(StoreError, match="link"):
            store.write(name, b"changed")
    assert [info.name for info in store.list()] == ["there"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_root_that_is_a_link_itself_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    LocalStore(tmp_path / "link").write("a/b", b"data")
    assert LocalStore(tmp_path / "real").read("a/b") == b"data"


def test_a_forked_child_does_not_keep_a_temporary_files_lock(store: LocalStore) -> None:
    reading, writing = os.pipe()
    with store.temporary() as temporary:
        child = os.fork()
        if child == 0:
            os.close(writing)
            end_child(lambda: os.read(reading, 1))
        same_file = store.root / TEMPORARY / "same"
        os.link(temporary.path, same_file)
        assert not is_free(same_file)
    freed = is_free_soon(same_file)
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)
    assert freed


def test_a_forked_child_that_unwinds_does_not_remove_its_parents_temporary_file(store: LocalStore) -> None:
    assert run_in_child(lambda: fork_inside(store)) == 0


def fork_inside(store: LocalStore) -> None:
    """Fork inside a `with` block, and let the child unwind out of it."""
    with store.temporary() as temporary:
        pid = os.fork()
        if pid:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert temporary.path.exists(), "the child removed its parent's file"


def test_listing_reads_only_the_folders_that_the_prefix_names(store: LocalStore) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every folder")
    store.write("a/b", b"data")
    store.write("closed/c", b"data")
    (store.root / "closed").chmod(0)
    try:
        assert [info.name for info in store.list("a/")] == ["a/b"]
        with pytest.raises(StoreError, match="cannot be read"):
            list(store.list())
    finally:
        (store.root / "closed").chmod(0o755)


def test_the_url_opens_the_folder_again(tmp_path: Path) -> None:
    assert LocalStore(tmp_path / "ü #?").url == (tmp_path / "ü #?").as_uri()


def test_a_forked_child_that_unwinds_does_not_write_its_parents_buffer_a_second_time(
    store: LocalStore,
) -> None:
    with store.temporary() as temporary:
        temporary.file.write(b"before ")
        child = os.fork()
        if child == 0:
            end_child(lambda: unwind(temporary.file))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        temporary.file.write(b"after")
        store.adopt(temporary, "a")
    assert store.read("a") == b"before after"


def unwind(file: BinaryIO) -> None:
    """Do what a child does that leaves the `with` block of its parent's file."""
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        file.write(b"the child's")


def test_what_a_temporary_file_still_buffers_when_it_is_given_up_is_not_written(store: LocalStore) -> None:
    with store.temporary() as temporary:
        temporary.file.write(b"buffered")
        os.link(temporary.path, store.root / "watched")
    assert (store.root / "watched").read_bytes() == b""


def test_no_link_below_the_root_is_followed_wherever_it_leads(store: LocalStore) -> None:
    store.write("real/object", b"data")
    (store.root / "inner").symlink_to("real")
    (store.root / "loop").symlink_to("loop")
    for name in ("inner/object", "loop", "loop/object"):
        for use in (store.read, store.stat, store.delete, lambda name: store.write(name, b"changed")):
            with pytest.raises(StoreError, match="links are not followed"):
                use(name)
    assert [info.name for info in store.list()] == ["real/object"]
    assert store.read("real/object") == b"data"


def test_a_temporary_folder_that_is_a_link_is_neither_filled_nor_swept(
    store: LocalStore, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"data")
    store.root.mkdir()
    (store.root / TEMPORARY).symlink_to(outside)
    with pytest.raises(StoreError, match="links are not followed"):
        store.sweep()
    with pytest.raises(StoreError, match="links are not followed"):
        store.write("a", b"data")
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_name_too_long_for_the_disk_is_a_store_error(store: LocalStore) -> None:
    store.write("a", b"data")
    name = "n" * 300
    for use in (store.read, store.stat, store.delete, lambda name: store.write(name, b"data")):
        with pytest.raises(StoreError, match="too long") as caught:
            use(name)
        assert not isinstance(caught.value, ObjectNotFoundError)
    assert left_over(store) == []


def test_files_that_no_object_could_be_named_are_not_listed(store: LocalStore) -> None:
    store.write("a", b"data")
    for name in (b"line\nfeed", b"undecodable\xff", b"back\\slash"):
        (store.root / os.fsdecode(name)).write_bytes(b"")
        (store.root / os.fsdecode(name + b".d")).mkdir()
        (store.root / os.fsdecode(name + b".d") / "below").write_bytes(b"")
    assert [info.name for info in store.list()] == ["a"]


FILL_A_DISK = """
import os, sys
from pathlib import Path
from benchkit.errors import StoreError
from benchkit.store.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
store.write("a", b"the old one")
for size in (300_000, 3_000_000):
    try:
        store.write("a", b"x" * size)
    except StoreError as error:
        assert "is full" in str(error), error
    else:
        raise AssertionError("it fitted")
    assert os.listdir(store.root / ".tmp") == []
assert store.read("a") == b"the old one"
store.write("b", b"there is room again" * 1000)
print("done")
"""


def test_a_disk_that_is_really_full_is_a_store_error_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o size=200k tmpfs "$0"'
    try:
        subprocess.run([*isolated, mount, str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets no test mount a small disk")
    done = subprocess.run(
        [*isolated, f'{mount} && exec "$1" -c "$2" "$0/store"', str(disk), sys.executable, FILL_A_DISK],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_what_cannot_be_removed_is_told_so(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match=r"a in .* cannot be removed: .*Permission denied"):
            store.delete("a")
    assert store.read("a") == b"data"


def refuse(path: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
