"""The walk knows every sample by its key, reads nothing, and names what cannot be packed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchkit.data import ProcessorDataset
from benchkit.data.samples import Samples
from benchkit.data.walk import RANGE_SAMPLES, Walk, WalkBuilder, split_walk, walk_range
from benchkit.errors import DatasetError, LabelTypeError, SampleError
from benchkit.format.digests import digest_key
from benchkit.format.tar import BLOCK


def walk(dataset: ProcessorDataset, project: Path) -> Walk:
    samples = Samples.of(dataset, project)
    builder = WalkBuilder(samples.count())
    for indices in reversed(list(split_walk(samples.count()))):
        builder.add(walk_range(samples, indices))
    return builder.finish(samples)


def digests_of(*keys: str) -> list[bytes]:
    return [digest_key(key.encode()) for key in keys]


class Numbered(ProcessorDataset):
    """Samples without files."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


class Keyed(Numbered):
    """Samples with keys of their own."""

    def __init__(self, keys: list[Any]) -> None:
        super().__init__(len(keys))
        self._keys = keys

    def get_key(self, item: int) -> str:
        return self._keys[item]


def test_a_walk_in_ranges_finds_every_key(tmp_path: Path) -> None:
    count = 2 * RANGE_SAMPLES + 5
    found = walk(Numbered(count), tmp_path)
    assert [bytes(row) for row in found.digests] == digests_of(*(str(index) for index in range(count)))
    assert sorted(found.order.tolist()) == list(range(count))
    assert not found.repeats.any()
    assert found.source_bytes == 0


def test_the_walk_takes_at_most_32_bytes_a_sample(tmp_path: Path) -> None:
    found = walk(Numbered(10_000), tmp_path)
    assert sum(array.nbytes for array in (found.digests, found.sizes, found.repeats, found.order)) <= 320_000


def test_sizes_are_those_of_headers_and_padded_files(tmp_path: Path, listed: type[Any]) -> None:
    for name, size in (("a", 0), ("b", 1), ("c", BLOCK), ("d", BLOCK + 1)):
        (tmp_path / name).write_bytes(bytes(size))
    files = [[str(tmp_path / name) for name in names] for names in ("a", "b", "cd", "")]
    found = walk(listed(files), tmp_path)
    assert found.sizes.tolist() == [BLOCK, 2 * BLOCK, 5 * BLOCK, 0]
    assert found.source_bytes == 1 + BLOCK + BLOCK + 1


def test_repeats_of_a_default_key_are_numbered_in_order_of_index(tmp_path: Path, listed: type[Any]) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    files = [[str(tmp_path / name)] for name in ("a.png", "b.png", "a.png", "a.png", "b.png")]
    found = walk(listed(files), tmp_path)
    assert found.repeats.tolist() == [0, 0, 1, 2, 1]
    wanted = digests_of("a.png", "b.png", "a.png#1", "a.png#2", "b.png#1")
    assert [bytes(row) for row in found.digests] == wanted


def test_a_numbered_repeat_that_is_another_samples_key_is_an_error(tmp_path: Path, listed: type[Any]) -> None:
    for name in ("a", "a#1"):
        (tmp_path / name).touch()
    files = [[str(tmp_path / name)] for name in ("a#1", "a", "a")]
    with pytest.raises(SampleError, match=r"samples 0 and 2 have the same key 'a#1'.*get_key"):
        walk(listed(files), tmp_path)


def test_a_users_key_that_repeats_is_an_error_naming_both_samples(tmp_path: Path) -> None:
    keys = [f"k{index}" for index in range(RANGE_SAMPLES + 10)]
    keys[RANGE_SAMPLES + 3] = "k17"
    with pytest.raises(SampleError, match=rf"samples 17 and {RANGE_SAMPLES + 3} have the same key 'k17'"):
        walk(Keyed(keys), tmp_path)


@pytest.mark.parametrize("key", [5, "", None, b"k"])
def test_a_key_that_is_no_text_is_an_error(tmp_path: Path, key: Any) -> None:
    with pytest.raises(SampleError, match=r"sample 1: get_key returned .*; it returns a str"):
        walk(Keyed(["k", key]), tmp_path)


def test_a_key_that_is_no_unicode_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"sample 0: its key .* is no Unicode text"):
        walk(Keyed(["\ud800"]), tmp_path)


def test_two_hard_to_tell_keys_are_two(tmp_path: Path) -> None:
    found = walk(Keyed(["u\u0308", "\u00fc"]), tmp_path)
    assert len({bytes(row) for row in found.digests}) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"No such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), r"No such file"),
    ],
)
def test_what_is_no_file_is_named_with_its_sample(
    tmp_path: Path, listed: type[Any], make: Callable[[Path], object], message: str
) -> None:
    (tmp_path / "good").touch()
    make(tmp_path / "bad")
    files = [[str(tmp_path / "good")], [str(tmp_path / "good"), str(tmp_path / "bad")]]
    with pytest.raises(SampleError, match=rf"sample 1: .*{tmp_path}/bad.*{message}"):
        walk(listed(files), tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "a\x7f", "\x1b[2Jx"])
def test_a_name_that_cannot_be_stored_is_refused_and_escaped(
    tmp_path: Path, listed: type[Any], name: str
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SampleError, match=r"sample 0: .* control character") as caught:
        walk(listed([[str(tmp_path / name)]]), tmp_path)
    assert str(caught.value).isprintable()


def test_a_path_with_a_null_byte_is_refused(tmp_path: Path, listed: type[Any]) -> None:
    with pytest.raises(SampleError, match=r"sample 0: cannot read .*null"):
        walk(listed([["/tmp\0/a"]]), tmp_path)


@pytest.mark.parametrize("value", ["/data/a.png", None, 5, {"a": 1}, [b"/a"], [None]])
def test_get_file_must_return_a_list_of_paths(tmp_path: Path, listed: type[Any], value: Any) -> None:
    with pytest.raises(SampleError, match="sample 0: get_file returned"):
        walk(listed([value]), tmp_path)


def test_get_file_may_return_path_objects_and_tuples(tmp_path: Path, listed: type[Any]) -> None:
    (tmp_path / "a").touch()
    found = walk(listed([(tmp_path / "a", str(tmp_path / "a"))]), tmp_path)
    assert [bytes(row) for row in found.digests] == digests_of("a")


def test_an_exception_of_the_users_names_sample_method_and_cause(tmp_path: Path) -> None:
    class Broken(Numbered):
        def get_file(self, item: int) -> list[str]:
            return [{0: "x"}[item]] if item else []

        def get_label_and_numeric_data(self, item: int) -> int:
            raise KeyError("no such class")

        def get_key(self, item: int) -> str:
            raise OSError

    samples = Samples.of(Broken(3), tmp_path)
    with pytest.raises(SampleError, match="sample 2: get_file failed: KeyError: 2") as caught:
        samples.paths([0, 2])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(SampleError, match="sample 0: get_key failed: OSError"):
        samples.keys(range(3), [[]] * 3)
    with pytest.raises(SampleError, match="get_label_and_numeric_data failed: KeyError: 'no such class'"):
        samples.label(1)


def test_a_label_that_cannot_be_stored_names_sample_and_type(tmp_path: Path, listed: type[Any]) -> None:
    with pytest.raises(LabelTypeError, match=r"sample 1: label\['x'\] is of type .*set"):
        Samples.of(listed([[], []], [0, {"x": {1}}]), tmp_path).label(1)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "is empty"),
        (-1, "len.. of .* failed: ValueError"),
        ("3", "failed: TypeError"),
        (1 << 32, "at most"),
    ],
)
def test_a_length_that_cannot_be_packed_is_an_error(tmp_path: Path, length: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Samples.of(Numbered(length), tmp_path).count()


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="list is no dataset to pack: inherit"):
        Samples.of([1, 2], tmp_path)  # type: ignore[arg-type]


def test_a_root_that_fails_is_an_error_of_the_dataset(tmp_path: Path) -> None:
    class Rootless(Numbered):
        @property
        def root(self) -> Path:
            raise KeyError("DATA")

    with pytest.raises(DatasetError, match="root of Rootless failed: KeyError: 'DATA'"):
        Samples.of(Rootless(3), tmp_path)


def test_the_written_order_ignores_the_order_of_the_indices(tmp_path: Path) -> None:
    keys = [f"k{index}" for index in range(500)]
    mixed = np.random.default_rng(1).permutation(500).tolist()
    first = walk(Keyed(keys), tmp_path)
    second = walk(Keyed([keys[index] for index in mixed]), tmp_path)
    assert [keys[i] for i in first.order.tolist()] == [keys[mixed[i]] for i in second.order.tolist()]
