"""The contract of a store: what every backend promises, stated once."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

from benchkit.errors import ObjectNotFoundError, StoreError, UsageError
from benchkit.store.base import BLOCK_BYTES, Store

AWKWARD_NAMES = (
    "with space.tar",
    "Größe/Übung ß.json",
    "日本/語.bin",
    "a+b%20c&d=e?f#g.txt",
    "deep/er/and/deeper/x",
    "..hidden",
    "a..b/…",
    "-dash",
)
REFUSED_NAMES = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "../up",
    "a/../../up",
    "a/..",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "line\nfeed",
    "nul\0",
    "escape\x1b[0m",
    "undecodable\udcff",
)


class StoreContract:
    """The laws; a subclass gives the fixture `store`, an empty store."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 1000, BLOCK_BYTES, 2 * BLOCK_BYTES + 1])
    def test_what_was_written_is_read_and_streamed(self, store: Store, size: int) -> None:
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        store.write("folder/object", data)
        assert store.read("folder/object") == data
        blocks = list(store.stream("folder/object"))
        assert b"".join(blocks) == data
        assert all(0 < len(block) <= 4 << 20 for block in blocks)
        info = store.stat("folder/object")
        assert info is not None
        assert (info.name, info.size) == ("folder/object", size)

    def test_a_file_is_stored_as_its_contents(self, store: Store, tmp_path: Path) -> None:
        data = b"0123456789" * 300_000
        (tmp_path / "source").write_bytes(data)
        store.write("a/copy", tmp_path / "source")
        assert store.read("a/copy") == data
        assert (tmp_path / "source").read_bytes() == data

    def test_a_missing_source_file_is_a_store_error_and_stores_nothing(
        self, store: Store, tmp_path: Path
    ) -> None:
        with pytest.raises(StoreError) as caught:
            store.write("a/copy", tmp_path / "missing")
        assert not isinstance(caught.value, ObjectNotFoundError)
        assert store.stat("a/copy") is None

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [
            (0, 0, b""),
            (0, 1, b"0"),
            (3, 4, b"3456"),
            (0, 10, b"0123456789"),
            (9, 1, b"9"),
            (10, 0, b""),
            (4, None, b"456789"),
            (10, None, b""),
        ],
    )
    def test_a_range_is_exactly_its_bytes(
        self, store: Store, start: int, length: int | None, expected: bytes
    ) -> None:
        store.write("digits", b"0123456789")
        assert store.read("digits", start=start, length=length) == expected
        assert b"".join(store.stream("digits", start=start, length=length)) == expected

    @pytest.mark.parametrize(
        ("start", "length"), [(0, 11), (9, 2), (10, 1), (11, 0), (11, None), (1 << 40, 1), (-1, 1), (3, -1)]
    )
    def test_a_range_outside_the_object_is_an_error(
        self, store: Store, start: int, length: int | None
    ) -> None:
        store.write("digits", b"0123456789")
        with pytest.raises(StoreError, match="digits"):
            store.read("digits", start=start, length=length)
        with pytest.raises(StoreError, match="digits"):
            list(store.stream("digits", start=start, length=length))

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_awkward_names_are_names(self, store: Store, name: str) -> None:
        store.write(name, name.encode())
        assert store.read(name) == name.encode()
        assert [info.name for info in store.list()] == [name]
        store.delete(name)
        assert store.stat(name) is None

    @pytest.mark.parametrize("name", REFUSED_NAMES)
    def test_names_that_are_none_are_refused(self, store: Store, name: str) -> None:
        for use in (store.read, store.stat, store.delete, lambda name: list(store.stream(name))):
            with pytest.raises(UsageError):
                use(name)
        with pytest.raises(UsageError):
            store.write(name, b"data")
        assert list(store.list()) == []

    def test_what_is_missing_is_not_found(self, store: Store) -> None:
        store.write("there/object", b"data")
        for name in ("missing", "there", "there/other", "there/object/below"):
            with pytest.raises(ObjectNotFoundError, match=name):
                store.read(name)
            with pytest.raises(ObjectNotFoundError, match=name):
                list(store.stream(name))
            assert store.stat(name) is None

    def test_deleting_twice_is_no_error_and_removes_one_object_alone(self, store: Store) -> None:
        for name in ("a/b/one", "a/b/two", "a/three"):
            store.write(name, b"data")
        store.delete("a/b/one")
        store.delete("a/b/one")
        store.delete("a/b")
        store.delete("never/was")
        store.delete("a/three/below")
        assert [info.name for info in store.list()] == ["a/b/two", "a/three"]
        store.delete("a/b/two")
        store.write("a/b/two", b"again")
        assert store.read("a/b/two") == b"again"

    def test_objects_are_listed_in_order_of_their_whole_names(self, store: Store) -> None:
        names = [
            "a/b",
            "a-b",
            "a.b",
            "a0",
            "a",
            "b/a/c",
            "b/a.c",
            "b/a-c/d",
            "b/a-c.d",
            "B",
            "é",
            "b/10",
            "b/9",
        ]
        names.remove("a")  # in a folder an object cannot also be a folder
        for size, name in enumerate(names):
            store.write(name, b"x" * size)
        listed = list(store.list())
        assert [info.name for info in listed] == sorted(names)
        assert {info.name: info.size for info in listed} == {name: names.index(name) for name in names}

    @pytest.mark.parametrize(
        "prefix",
        ["", "a", "a/", "a/b", "a/b/", "a/b/c", "a-", "b", "missing", "missing/deep", "/", "../", "a/../"],
    )
    def test_a_prefix_is_a_beginning_of_the_name_whether_or_not_it_ends_a_folder(
        self, store: Store, prefix: str
    ) -> None:
        names = ["a-b", "a/b/c", "a/b/cd", "a/bc", "ab/c", "b"]
        for name in names:
            store.write(name, b"data")
        expected = [name for name in names if name.startswith(prefix)]
        assert [info.name for info in store.list(prefix)] == expected

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        assert list(store.list()) == []
        assert list(store.list("any/prefix")) == []

    def test_what_is_listed_is_what_stat_tells(self, store: Store) -> None:
        store.write("a/b", b"data")
        store.write("c", b"")
        assert list(store.list()) == [store.stat("a/b"), store.stat("c")]

    def test_overwriting_replaces_and_moves_the_time_on(self, store: Store) -> None:
        store.write("a", b"a long first content")
        before = store.stat("a")
        store.write("a", b"second")
        after = store.stat("a")
        assert store.read("a") == b"second"
        assert before is not None
        assert after is not None
        assert after.size == 6
        assert after.modified >= before.modified

    def test_a_concurrent_reader_sees_one_whole_object_or_the_other(self, store: Store) -> None:
        contents = [bytes([letter]) * (3 * BLOCK_BYTES + letter) for letter in (1, 2)]
        store.write("a", contents[0])
        done, failed = threading.Event(), []

        def overwrite() -> None:
            try:
                for turn in range(10):
                    store.write("a", contents[(turn + 1) % 2])
            except StoreError as error:
                failed.append(error)
            finally:
                done.set()

        writer = threading.Thread(target=overwrite)
        writer.start()
        reads = 0
        while not done.is_set() or reads < 5:
            assert b"".join(store.stream("a")) in contents
            assert store.read("a") in contents
            reads += 1
        writer.join()
        assert failed == []

    def test_writers_and_deleters_of_one_folder_do_not_hinder_each_other(self, store: Store) -> None:
        failed = []

        def write_and_delete(number: int) -> None:
            try:
                for turn in range(100):
                    store.write(f"deep/folder/{number}", b"%d" % turn)
                    assert store.read(f"deep/folder/{number}") == b"%d" % turn
                    store.delete(f"deep/folder/{number}")
            except (StoreError, AssertionError) as error:
                failed.append(error)

        threads = [threading.Thread(target=write_and_delete, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert list(store.list()) == []

    def test_a_pickled_store_reads_and_writes(self, store: Store) -> None:
        store.write("a", b"data")
        again = pickle.loads(pickle.dumps(store))  # noqa: S301
        assert again.url == store.url
        assert again.read("a") == b"data"
        again.write("b", b"more")
        assert again.read("b") == b"more"

    def test_the_url_is_one_and_says_no_secret(self, store: Store) -> None:
        assert "://" in store.url
        assert "@" not in store.url
