"""Laws of the cache, seen from one process."""

import os
import pickle
import stat

import pytest

from benchkit.errors import CacheError, CorruptError, UsageError
from benchkit.stream.cache import ChunkCache

SIZE = 4096
TAR = os.urandom(SIZE)


def test_making_and_pickling_a_cache_touches_nothing(shop):
    cache = pickle.loads(pickle.dumps(shop.cache(7)))  # noqa: S301
    assert cache == ChunkCache(folder=shop.cache_folder, limit_bytes=7)
    assert not shop.cache_folder.exists()
    assert cache.used_bytes() == 0


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(UsageError, match="limit of 0 bytes"):
        ChunkCache(folder=tmp_path, limit_bytes=0)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_chunk_is_fetched_once_and_lies_there_as_a_plain_read_only_tar(shop, codec):
    item, cache = shop.add(TAR * 3, codec=codec), shop.cache()
    for _ in range(3):
        shop.check(cache, item)
    assert shop.store.fetches() == [item.name]
    assert shop.files() == {f"{item.chunk.tar}.tar"}
    path = shop.cache_folder / "chunks" / f"{item.chunk.tar}.tar"
    assert path.read_bytes() == item.tar
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert cache.used_bytes() == item.size


def test_the_smallest_limit_is_told_before_anything_is_fetched(shop):
    shop.cache(5 * SIZE).check_limit(lanes=4, largest_tar_bytes=SIZE)
    with pytest.raises(
        CacheError, match=rf"BENCHKIT_CACHE_LIMIT_BYTES.* to at least {5 * SIZE}, or lower open_chunks"
    ):
        shop.cache(5 * SIZE - 1).check_limit(lanes=4, largest_tar_bytes=SIZE)


def test_checking_the_limit_sweeps_what_dead_processes_left(shop):
    cache = shop.cache()
    cache.check_limit(lanes=1, largest_tar_bytes=1)
    (shop.cache_folder / "chunks" / ("a" * 64 + ".part")).write_bytes(TAR)
    cache.check_limit(lanes=1, largest_tar_bytes=1)
    assert not shop.files()


def test_a_chunk_larger_than_the_limit_is_refused_with_the_number_that_would_do(shop):
    item = shop.add(TAR)
    with pytest.raises(CacheError, match=f"to at least {SIZE}"):
        shop.open(shop.cache(SIZE - 1), item)
    assert shop.store.fetches() == []
    assert not shop.files()


def test_the_least_recently_opened_chunk_leaves_first(shop):
    items, cache = shop.add_many(6, SIZE), shop.cache(3 * SIZE)
    for number in (0, 1, 2, 0, 3):
        shop.check(cache, items[number])
    assert shop.cached(items) == [0, 2, 3]
    shop.check(cache, items[4])
    assert shop.cached(items) == [0, 3, 4]


def test_an_open_chunk_is_never_evicted(shop):
    items, cache = shop.add_many(8, SIZE), shop.cache(3 * SIZE)
    with shop.open(cache, items[0]) as first, shop.open(cache, items[1]) as second:
        for item in items[2:]:
            shop.check(cache, item)
            assert cache.used_bytes() <= 3 * SIZE
        assert {0, 1} <= set(shop.cached(items))
        assert first.read(0, SIZE) == items[0].tar
        assert second.read(0, SIZE) == items[1].tar
    assert len(shop.store.fetches()) == 8


def test_no_room_is_an_error_that_tells_the_limit_what_is_held_and_what_to_set(shop):
    items, cache = shop.add_many(3, SIZE), shop.cache(2 * SIZE)
    with (
        shop.open(cache, items[0]),
        shop.open(cache, items[1]),
        pytest.raises(CacheError) as caught,
    ):
        shop.open(cache, items[2], timeout_seconds=0.2)
    for part in (
        items[2].what,
        f"limit of {2 * SIZE}",
        f"held {2 * SIZE} for 0.2 s",
        f"to at least {3 * SIZE}",
    ):
        assert part in str(caught.value)
    assert shop.cached(items) == [0, 1]
    assert len(shop.files()) == 2
    shop.check(cache, items[2])


def test_no_room_makes_the_caller_give_up_what_it_can_spare(shop):
    items, cache = shop.add_many(3, SIZE), shop.cache(2 * SIZE)
    held = [shop.open(cache, items[0]), shop.open(cache, items[1])]

    def make_room():
        if not held:
            return False
        held.pop(0).close()
        return True

    with shop.open(cache, items[2], make_room=make_room, timeout_seconds=5):
        assert shop.cached(items) == [1, 2]
    assert len(held) == 1
    held[0].close()


def test_a_smaller_limit_brings_a_folder_of_a_larger_one_down(shop):
    items = shop.add_many(7, SIZE)
    for item in items[:6]:
        shop.check(shop.cache(6 * SIZE), item)
    shop.check(shop.cache(2 * SIZE), items[6])
    assert shop.cached(items) == [5, 6]


def flipped(data):
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize(
    "damage", [flipped, lambda data: data[:-1], lambda data: b""], ids=["flip", "cut", "empty"]
)
def test_a_damaged_store_is_an_error_that_leaves_nothing_and_a_mended_one_heals(shop, codec, damage):
    item, cache = shop.add(TAR, codec=codec), shop.cache()
    right = shop.store.read(item.name)
    shop.store.write(item.name, damage(right))
    with pytest.raises(CorruptError, match=item.what):
        shop.open(cache, item)
    assert not shop.files()
    shop.store.write(item.name, right)
    shop.check(cache, item)


def test_two_swapped_objects_are_both_errors(shop):
    one, two = shop.add(TAR), shop.add(TAR[::-1])
    shop.store.write(one.name, two.tar)
    shop.store.write(two.name, one.tar)
    for item in (one, two):
        with pytest.raises(CorruptError, match=item.what):
            shop.open(shop.cache(), item)


def test_a_missing_object_is_an_error_that_leaves_nothing(shop):
    item = shop.add(TAR)
    shop.store.delete(item.name)
    with pytest.raises(CorruptError, match=f"{item.what} is missing"):
        shop.open(shop.cache(), item)
    assert not shop.files()


def test_a_cached_file_of_a_wrong_size_is_fetched_again(shop):
    item, cache = shop.add(TAR), shop.cache()
    shop.check(cache, item)
    path = shop.cache_folder / "chunks" / f"{item.chunk.tar}.tar"
    path.chmod(0o600)
    path.write_bytes(TAR[:-1])
    shop.check(cache, item)
    assert len(shop.store.fetches()) == 2


def test_a_discarded_chunk_is_fetched_again_and_a_newer_file_is_spared(shop):
    item, cache = shop.add(TAR), shop.cache()
    one, two = shop.open(cache, item), shop.open(cache, item)
    cache.discard(one)
    assert one.closed
    assert not shop.files()
    shop.check(cache, item)
    cache.discard(two)
    shop.check(cache, item)
    assert len(shop.store.fetches()) == 2


def test_a_chunk_removed_by_hand_is_fetched_again_and_its_readers_read_on(shop):
    item, cache = shop.add(TAR), shop.cache()
    with shop.open(cache, item) as opened:
        opened.path.unlink()
        shop.check(cache, item)
        assert opened.read(0, SIZE) == TAR
    assert len(shop.store.fetches()) == 2


def test_a_part_of_a_dead_process_is_taken_over_whatever_it_holds(shop):
    item, cache = shop.add(TAR), shop.cache(SIZE)
    cache.check_limit(lanes=0, largest_tar_bytes=SIZE)
    (shop.cache_folder / "chunks" / f"{item.chunk.tar}.part").write_bytes(b"x" * 2 * SIZE)
    shop.check(cache, item)
    assert shop.files() == {f"{item.chunk.tar}.tar"}


def test_a_folder_that_others_may_enter_is_refused(shop):
    shop.cache_folder.mkdir(mode=0o755)
    shop.cache_folder.chmod(0o755)
    with pytest.raises(CacheError, match="chmod 700"):
        shop.open(shop.cache(), shop.add(TAR))


def test_an_error_of_the_disk_is_told_with_the_folder(shop):
    item, cache = shop.add(TAR), shop.cache()
    shop.cache_folder.mkdir(mode=0o700)
    (shop.cache_folder / "cache.lock").mkdir()
    with pytest.raises(CacheError, match=f"the cache {shop.cache_folder} cannot be used .*: choose another"):
        shop.open(cache, item)


def test_a_folder_that_is_none_any_more_is_told_whoever_looks(tmp_path):
    cache = ChunkCache(folder=tmp_path / "cache", limit_bytes=1 << 20)
    assert cache.last_call() == 0
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(CacheError, match="cannot be used"):
        cache.last_call()
