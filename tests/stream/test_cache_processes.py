"""Laws of the cache, seen from several real processes."""

import os
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.small_disk import mount_small_disk

from benchkit.errors import CacheError, StallError
from benchkit.store.locks import open_locked
from benchkit.stream.cache_folder import CacheFolder

SIZE = 64 << 10

pytestmark = [
    pytest.mark.processes,
    # Forking beside threads is what a loader does; Python 3.12 and later warn of it.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def wait_for(condition, timeout_seconds=20):
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def part_size(shop, item):
    """Bytes of the item's `.part`, or None where there is none."""
    try:
        return (shop.cache_folder / "chunks" / f"{item.chunk.tar}.part").stat().st_size
    except FileNotFoundError:
        return None


def counted_bytes(shop, cache):
    """What the folder holds at one moment: nothing comes or goes under its lock."""
    with open_locked(shop.cache_folder / "cache.lock", shared=False, create=True):
        return cache.used_bytes()


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_many_processes_and_threads_that_want_one_chunk_fetch_it_once(shop, fork, codec):
    item, cache, store = shop.add(os.urandom(SIZE), codec=codec), shop.cache(SIZE), shop.slow(0.01)

    def reader():
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: shop.check(cache, item, store=store), range(3)))
        return os.getpid()

    readers = [fork(reader) for _ in range(6)]
    assert len({one.result() for one in readers}) == 6
    assert store.fetches() == [item.name]
    assert shop.files() == {f"{item.chunk.tar}.tar"}


def test_every_chunk_is_fetched_once_per_machine_where_all_fit(shop, fork):
    items = shop.add_many(12, SIZE)
    cache, store = shop.cache(12 * SIZE), shop.slow(0.001)

    def reader(seed):
        for item in random.Random(seed).sample(items, len(items)):
            shop.check(cache, item, store=store)

    readers = [fork(reader, seed) for seed in range(4)]
    for one in readers:
        one.result()
    assert sorted(store.fetches()) == sorted(item.name for item in items)


def test_processes_that_keep_meeting_at_the_same_chunk_still_fetch_it_once(shop, fork):
    items = shop.add_many(300, 64)
    cache = shop.cache()

    def reader():
        for item in items:
            shop.check(cache, item)

    readers = [fork(reader) for _ in range(4)]
    for one in readers:
        one.result()
    assert len(shop.store.fetches()) == 300


def test_readers_of_many_chunks_never_exceed_a_limit_of_a_few(shop, fork):
    items = shop.add_many(16, SIZE, codec="zstd")
    limit = 5 * SIZE
    cache, store = shop.cache(limit), shop.slow(0.002, 64)

    def reader(seed):
        choose = random.Random(seed)
        for item in choose.choices(items, k=60):
            with shop.open(cache, item, store=store) as opened:
                time.sleep(choose.random() * 0.005)
                assert opened.read(0, item.size) == item.tar

    cache.check_limit(lanes=4, largest_tar_bytes=SIZE)
    readers, peak = [fork(reader, seed) for seed in range(4)], 0
    while any(one.process.is_alive() for one in readers):
        peak = max(peak, counted_bytes(shop, cache))
        time.sleep(0.001)
    for one in readers:
        one.result()
    assert 3 * SIZE < peak <= limit
    assert not [name for name in shop.files() if name.endswith(".part")]


def test_jobs_with_different_limits_share_a_folder_within_the_larger(shop, fork):
    items = shop.add_many(16, SIZE)
    small, large = shop.cache(3 * SIZE), shop.cache(6 * SIZE)

    def reader(cache, seed):
        for item in random.Random(seed).choices(items, k=200):
            shop.check(cache, item)

    readers, peak = [fork(reader, cache, seed) for seed, cache in enumerate((small, large))], 0
    while any(one.process.is_alive() for one in readers):
        if shop.cache_folder.exists():
            peak = max(peak, counted_bytes(shop, large))
        time.sleep(0.001)
    for one in readers:
        one.result()
    assert peak <= 6 * SIZE


def test_killed_at_any_moment_and_started_again_it_completes_and_leaves_nothing(shop, fork):
    items = shop.add_many(8, SIZE)
    limit = 4 * SIZE
    cache, store, moments = shop.cache(limit), shop.slow(0.0005), random.Random(7)

    def reader(seed):
        for item in random.Random(seed).choices(items, k=1000):
            shop.check(cache, item, store=store)

    for round_number in range(25):
        victims = [fork(reader, 2 * round_number + number) for number in range(2)]
        for victim in victims:
            time.sleep(moments.random() * 0.04)
            victim.kill()
        if shop.cache_folder.exists():
            assert cache.used_bytes() <= limit
    assert len(store.fetches()) > 25, "the processes were killed before they did anything"
    for item in items:
        shop.check(cache, item, timeout_seconds=5)
    cache.check_limit(lanes=3, largest_tar_bytes=SIZE)
    assert all(name.endswith(".tar") for name in shop.files())
    assert cache.used_bytes() <= limit


def test_a_fetch_that_is_killed_is_taken_over_by_one_who_waits_for_it(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache(SIZE)
    fetcher = fork(lambda: shop.check(cache, item, store=shop.slow(30)))
    wait_for(lambda: part_size(shop, item) == SIZE)
    waiter = fork(lambda: shop.check(cache, item, timeout_seconds=20))
    time.sleep(0.2)
    assert waiter.process.is_alive()
    fetcher.kill()
    waiter.result()
    assert shop.files() == {f"{item.chunk.tar}.tar"}


def test_a_killed_parent_whose_forked_child_lives_on_blocks_nobody(shop, fork):
    held, fetched, other = shop.add_many(3, SIZE)
    cache = shop.cache(2 * SIZE)

    def parent():
        keep = shop.open(cache, held)
        threading.Thread(target=lambda: shop.open(cache, fetched, store=shop.slow(30)), daemon=True).start()
        wait_for(lambda: part_size(shop, fetched) == SIZE)
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.write(sender, child.to_bytes(4, "big"))
        time.sleep(60)
        keep.close()

    receiver, sender = os.pipe()
    forked = fork(parent)
    child = int.from_bytes(os.read(receiver, 4), "big")
    try:
        forked.kill()
        os.kill(child, 0)
        shop.check(cache, fetched, timeout_seconds=5)
        shop.check(cache, other, timeout_seconds=5)
        assert shop.cached([held, fetched, other]) == [1, 2]
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(receiver)
        os.close(sender)


def test_what_another_process_has_open_stays_until_that_process_dies(shop, fork):
    items = shop.add_many(3, SIZE)
    cache = shop.cache(2 * SIZE)

    def holder():
        with shop.open(cache, items[0]):
            os.write(sender, b"x")
            time.sleep(60)

    receiver, sender = os.pipe()
    forked = fork(holder)
    assert os.read(receiver, 1) == b"x"
    shop.check(cache, items[1])
    shop.check(cache, items[2])
    assert shop.cached(items) == [0, 2]
    forked.kill()
    shop.check(cache, items[1])
    shop.check(cache, items[2])
    assert shop.cached(items) == [1, 2]
    os.close(receiver)
    os.close(sender)


def test_room_that_another_process_gives_back_is_waited_for(shop, fork):
    items = shop.add_many(2, SIZE)
    cache = shop.cache(SIZE)

    def holder():
        with shop.open(cache, items[0]):
            os.write(sender, b"x")
            time.sleep(0.5)

    receiver, sender = os.pipe()
    forked = fork(holder)
    assert os.read(receiver, 1) == b"x"
    shop.check(cache, items[1], timeout_seconds=20)
    forked.result()
    os.close(receiver)
    os.close(sender)


def test_who_waits_for_a_fetch_gives_up_what_the_fetch_needs(shop, fork):
    items = shop.add_many(2, SIZE)
    cache = shop.cache(SIZE)
    held = shop.open(cache, items[0])
    fetcher = fork(lambda: shop.check(cache, items[1], timeout_seconds=20))
    wait_for(lambda: part_size(shop, items[1]) == 0)

    def make_room():
        spare = not held.closed
        held.close()
        return spare

    shop.check(cache, items[1], timeout_seconds=20, make_room=make_room)
    fetcher.result()
    assert held.closed
    assert shop.store.fetches() == [items[0].name, items[1].name]


def test_a_slow_fetch_is_waited_for_as_long_as_it_moves(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache(SIZE)
    fetcher = fork(lambda: shop.check(cache, item, store=shop.slow(0.1)))  # 16 blocks: 1.6 s
    wait_for(lambda: part_size(shop, item) == SIZE)
    shop.check(cache, item, timeout_seconds=0.6)
    fetcher.result()
    assert len(shop.store.fetches()) == 1


def test_a_fetch_that_stands_still_is_an_error_and_no_hang(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache(SIZE)
    fetcher = fork(lambda: shop.check(cache, item, store=shop.slow(0.05)))
    wait_for(lambda: part_size(shop, item) == SIZE)
    os.kill(fetcher.process.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(StallError, match=rf"{item.what} is being fetched by another process.* for 0\.5 s"):
        shop.open(cache, item, timeout_seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 5
    os.kill(fetcher.process.pid, signal.SIGCONT)
    fetcher.result()
    shop.check(cache, item)


def test_with_no_time_to_wait_the_chunk_that_another_fetches_is_an_error_at_once(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache(SIZE)
    fork(lambda: shop.check(cache, item, store=shop.slow(30)))
    wait_for(lambda: part_size(shop, item) == SIZE)
    with pytest.raises(StallError):
        shop.open(cache, item, timeout_seconds=0)


def test_a_folder_emptied_under_a_fetch_never_shows_a_tar_that_is_not_whole(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache(2 * SIZE)
    first = fork(lambda: shop.check(cache, item, store=shop.slow(0.03)))
    wait_for(lambda: part_size(shop, item) == SIZE)
    part = shop.cache_folder / "chunks" / f"{item.chunk.tar}.part"
    part.unlink()
    second = fork(lambda: shop.check(cache, item, store=shop.slow(0.06)))
    first.result()
    assert part.with_suffix(".tar").read_bytes() == item.tar
    second.result()
    assert shop.files() == {f"{item.chunk.tar}.tar"}
    shop.check(cache, item)


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_removed_whole_under_a_fetch_is_made_again(shop, fork, full):
    items, cache = shop.add_many(2, SIZE), shop.cache(SIZE)
    if full:
        shop.check(cache, items[1])
    first = fork(lambda: shop.check(cache, items[0], store=shop.slow(0.1)))
    wait_for(lambda: part_size(shop, items[0]) == SIZE)
    shutil.rmtree(shop.cache_folder)
    first.result()
    assert shop.cached(items) == [0]
    shop.check(cache, items[1])


def test_a_folder_removed_whole_just_after_it_was_made_is_made_again(shop, monkeypatch):
    item, prepare, removals = shop.add(b"tar"), CacheFolder.prepare, iter([True])

    def prepare_in_vain(folder):
        prepare(folder)
        if next(removals, False):
            shutil.rmtree(folder.path)

    monkeypatch.setattr(CacheFolder, "prepare", prepare_in_vain)
    shop.check(shop.cache(), item)


def test_a_fork_leaves_parent_and_child_each_reading_on(shop, fork):
    items = shop.add_many(2, SIZE)
    cache = shop.cache()
    with shop.open(cache, items[0]) as opened:

        def child():
            for item in items:
                shop.check(cache, item)

        fork(child).result()
        assert opened.read(0, SIZE) == items[0].tar
        shop.check(cache, items[1])
    assert len(shop.store.fetches()) == 2


def test_an_ordinary_user_evicts_tars_that_are_read_only(fork, shop):
    nobody, folder = 65534, Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users

    def user():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)
        home = type(shop)(folder)
        items = home.add_many(3, SIZE)
        for item in items:
            home.check(home.cache(SIZE), item)
        return home.cached(items)

    try:
        if os.geteuid() == 0:
            os.chown(folder, nobody, nobody)
        assert fork(user).result() == [2]
    finally:
        shutil.rmtree(folder)


def test_a_file_size_limit_is_a_clear_error_that_leaves_nothing(shop, fork):
    item, cache = shop.add(os.urandom(SIZE)), shop.cache()

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
        with pytest.raises(
            CacheError, match=f"the cache {shop.cache_folder} cannot be used .*File too large"
        ):
            shop.open(cache, item)
        return shop.files()

    assert fork(limited).result() == set()
    shop.check(cache, item)


def on_small_disk(shop, fork, size, function):
    """Run the function in a process whose cache lies on a disk of so many bytes."""
    shop.cache_folder.mkdir(mode=0o700)

    def run():
        problem = mount_small_disk(shop.cache_folder, size)
        if problem is None:
            function()
        return problem

    if problem := fork(run).result():
        pytest.skip(problem)


def test_a_full_disk_evicts(shop, fork):
    items, cache = shop.add_many(8, SIZE), shop.cache()

    def fill():
        for item in items:
            shop.check(cache, item)
        assert shop.cached(items) == [5, 6, 7]

    on_small_disk(shop, fork, 3 * SIZE, fill)


def test_a_full_disk_with_nothing_to_evict_is_a_clear_error_that_leaves_nothing(shop, fork):
    items, cache = shop.add_many(4, SIZE), shop.cache()

    def fill():
        with shop.open(cache, items[0]), shop.open(cache, items[1]) as spare:
            with pytest.raises(
                CacheError, match=r"no space for .* No space left on device, and nothing is left"
            ):
                shop.open(cache, items[2])
            assert shop.cached(items) == [0, 1]
            assert len(shop.files()) == 2
            shop.check(cache, items[2], make_room=lambda: not spare.closed and spare.close() is None)
            assert shop.cached(items) == [0, 2]
        (shop.cache_folder / "others").write_bytes(bytes(cache_free(shop)))
        shop.check(cache, items[3])

    on_small_disk(shop, fork, 2 * SIZE + SIZE // 2, fill)


def cache_free(shop):
    status = os.statvfs(shop.cache_folder)
    return status.f_bavail * status.f_frsize


def test_a_disk_of_exactly_the_smallest_limit_is_enough_for_several_readers(shop, fork):
    items = shop.add_many(12, SIZE, codec="zstd")
    cache = shop.cache(4 * SIZE)

    def reader(seed):
        for item in random.Random(seed).choices(items, k=150):
            shop.check(cache, item)

    def readers():
        children = []
        for seed in range(3):
            children.append(os.fork())
            if children[-1] == 0:
                status = 1
                try:
                    reader(seed)
                    status = 0
                finally:
                    os._exit(status)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]

    on_small_disk(shop, fork, 4 * SIZE, readers)
