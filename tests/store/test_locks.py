"""Locks die with their process, are never left behind in a forked child, and are on the file of that name."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.locking import is_free, is_free_soon

from benchkit.store.locks import LockedFile, names_file, open_locked


def try_lock(path: Path, *, shared: bool = False) -> LockedFile | None:
    return open_locked(path, shared=shared, blocking=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "lock"
    file.write_bytes(b"")
    return file


@pytest.mark.parametrize(
    ("held_shared", "asked_shared", "granted"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_only_shared_locks_go_together(
    path: Path, held_shared: bool, asked_shared: bool, granted: bool
) -> None:
    with open_locked(path, shared=held_shared) as held:
        assert held is not None
        lock = try_lock(path, shared=asked_shared)
        assert (lock is not None) is granted
        if lock:
            lock.close()
    assert is_free(path)


def test_closing_twice_closes_one_descriptor_once(path: Path) -> None:
    lock = open_locked(path, shared=True)
    assert lock is not None
    freed = lock.fd
    lock.close()
    assert lock.fd == -1
    other = os.open(path, os.O_RDONLY)
    assert other == freed, "the test needs the same number again"
    lock.close()
    os.fstat(other)
    os.close(other)


def test_a_lock_that_is_forgotten_is_let_go(path: Path) -> None:
    lock = open_locked(path, shared=False)
    assert not is_free(path)
    del lock
    assert is_free(path)


def test_a_file_is_made_only_on_demand_and_for_its_user_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_locked(tmp_path / "new", shared=False)
    with open_locked(tmp_path / "new", shared=False, create=True) as lock:
        assert lock is not None
        os.write(lock.fd, b"writable")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_file_opened_for_reading_can_be_locked_exclusively(path: Path) -> None:
    with open_locked(path, shared=False, writable=False) as lock:
        assert lock is not None
        assert not is_free(path)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(lock.fd, b"not writable")


def test_a_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        open_locked(link, shared=True)


def test_a_file_replaced_while_waiting_is_not_what_gets_locked(path: Path) -> None:
    holder = open_locked(path, shared=False)
    assert holder is not None
    found: list[LockedFile | None] = []
    waiter = threading.Thread(target=lambda: found.append(open_locked(path, shared=False, create=True)))
    waiter.start()
    time.sleep(0.1)
    path.unlink()
    path.write_bytes(b"the new one")
    holder.close()
    waiter.join(10)
    assert found[0] is not None
    assert names_file(path, found[0])
    assert os.read(found[0].fd, 100) == b"the new one"
    found[0].close()


def test_a_removed_file_has_no_name_any_more(path: Path) -> None:
    with open_locked(path, shared=True) as lock:
        assert lock is not None
        assert names_file(path, lock)
        path.unlink()
        assert not names_file(path, lock)


def test_a_downgraded_lock_lets_readers_in_and_no_waiting_writer(path: Path) -> None:
    for _ in range(50):
        holder = open_locked(path, shared=False)
        assert holder is not None
        found: list[LockedFile | None] = []
        writer = threading.Thread(target=lambda found=found: found.append(open_locked(path, shared=False)))
        writer.start()
        holder.downgrade()
        assert found == []
        reader = try_lock(path, shared=True)
        assert reader is not None
        reader.close()
        assert found == []
        holder.close()
        writer.join(10)
        assert found[0] is not None
        found[0].close()


HOLDER = """
import os, sys, time
from pathlib import Path
from benchkit.store.locks import open_locked

lock = open_locked(Path(sys.argv[1]), shared=False)
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_killed_owners_lock_is_free_although_its_forked_child_lives(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        try:
            assert not is_free(path)
            owner.send_signal(signal.SIGKILL)
            owner.wait(10)
            assert is_free_soon(path)
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def test_closing_in_the_parent_frees_the_lock_although_a_forked_child_lives(path: Path) -> None:
    reading, writing = os.pipe()
    with open_locked(path, shared=False) as lock:
        assert lock is not None
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0 if lock.fd == -1 else 1)
        assert not is_free(path), "the fork took the parent's lock away"
    assert is_free_soon(path)
    os.close(writing)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_child_forked_while_another_thread_opens_and_closes_keeps_a_lock(path: Path) -> None:
    done = threading.Event()

    def open_and_close() -> None:
        while not done.is_set():
            lock = open_locked(path, shared=True)
            assert lock is not None
            lock.close()

    thread = threading.Thread(target=open_and_close)
    thread.start()
    reading, writing = os.pipe()
    children = []
    try:
        for _ in range(60):
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            children.append(child)
    finally:
        done.set()
        thread.join()
    free = is_free_soon(path)
    os.close(writing)
    for child in children:
        os.waitpid(child, 0)
    os.close(reading)
    assert free, "one of the children keeps a lock"


def test_a_child_can_lock_and_fork_again(path: Path) -> None:
    lock = open_locked(path, shared=False)
    assert lock is not None
    lock.close()
    child = os.fork()
    if child == 0:
        again = open_locked(path, shared=False, blocking=False)
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        os._exit(ended if again else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_every_thread_of_a_child_can_lock(path: Path) -> None:
    child = os.fork()
    if child == 0:
        locked: list[bool] = []
        thread = threading.Thread(target=lambda: locked.append(is_free(path)), daemon=True)
        thread.start()
        thread.join(10)
        os._exit(0 if locked == [True] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


ENDING = """
import sys, threading
from pathlib import Path
from benchkit.store import locks

def hold(path):
    with locks.open_locked(path, shared=True):
        yield

holder = hold(Path(sys.argv[1]))
next(holder)
stopped = threading.Thread(target=locks._NO_FORK.acquire)
stopped.start()
stopped.join()
"""


def test_python_ends_although_a_thread_stopped_while_it_opened_or_closed_a_file(path: Path) -> None:
    path.touch()
    subprocess.run([sys.executable, "-c", ENDING, str(path)], check=True, timeout=30)
