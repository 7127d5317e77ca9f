"""Keys are the same wherever the dataset lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchkit.data import ProcessorDataset
from benchkit.data.keys import KeyRoot, default_key, default_keys, repeat_key
from benchkit.data.samples import Samples
from benchkit.errors import DatasetError, SampleError


def root_at(folder: str | Path) -> KeyRoot:
    return KeyRoot.of(folder, project=lambda: "/unused")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/home/me/project/cats/1.png", "cats/1.png"),
        ("/home/me/project//cats/./1.png", "cats/1.png"),
        ("/home/me/project/cats/../dogs/1.png", "dogs/1.png"),
        ("/home/me/project/.hidden/.1.png", ".hidden/.1.png"),
        ("/home/me/data/1.png", "../data/1.png"),
        ("/home/me/project2/1.png", "../project2/1.png"),
        ("/1.png", "../../../1.png"),
        ("/home/me/project/a b/ü#1.tar.gz", "a b/ü#1.tar.gz"),
    ],
)
def test_the_default_key_is_the_first_files_path_relative_to_the_root(path: str, key: str) -> None:
    assert default_key([path, "/home/me/project/other"], 7, root_at("/home/me/project")) == key
    assert default_key([path], 7, root_at("/home/me/project/")) == key


def test_a_relative_path_is_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "sub")
    assert default_key(["1.png"], 0, root_at(tmp_path / "project")) == "sub/1.png"
    assert default_key(["../../1.png"], 0, root_at(tmp_path / "project")) == "../1.png"


def test_a_project_reached_through_a_link_gives_the_same_keys(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for folder in ("real", "link"):
        assert default_key([f"{tmp_path}/{folder}/1.png"], 0, root_at(tmp_path / "link")) == "1.png"


def test_everything_is_below_the_root_folder_of_the_disk() -> None:
    assert default_key(["/data/1.png"], 0, root_at("/")) == "data/1.png"


def test_a_sample_without_files_has_its_index_for_a_key() -> None:
    assert default_key([], 1234, root_at("/project")) == "1234"


def test_the_nth_repeat_of_a_key_gets_its_number() -> None:
    assert [repeat_key("a.png", repeat) for repeat in range(3)] == ["a.png", "a.png#1", "a.png#2"]


def test_a_name_that_is_no_text_is_stored_as_on_the_disk() -> None:
    samples = Samples.of(Pair(), Path("/project"))
    assert samples.keys([0, 1], [["/project/a/\udcff.png"], ["/project/ü"]]) == [b"a/\xff.png", "ü".encode()]
    with pytest.raises(SampleError, match=r"sample 7: its key 'a\\ud800' is no Unicode text"):
        samples.keys([6, 7], [["/project/a"], ["/project/a\ud800"]])


@pytest.mark.parametrize(
    "odd", ["/p/x//a", "/p/x/../a", "/p/x/./a", "/p//a", "/p/.a", "/p/", "/other/a", "a", None]
)
def test_keys_are_the_same_made_together_as_one_by_one(odd: str | None) -> None:
    paths = [["/p/x/a"], ["/p/b", "/other/c"], [odd] if odd else []]
    for some in (paths[:2], paths, paths[2:]):
        one_by_one = [default_key(files, index, root_at("/p")) for index, files in enumerate(some, 5)]
        assert default_keys(some, range(5, 5 + len(some)), root_at("/p")) == one_by_one


class Pair(ProcessorDataset):
    def __len__(self) -> int:
        return 2

    def get_file(self, item: int) -> list[str]:
        return [f"/data/{item}.png"] if item else []

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


def test_a_users_key_can_build_on_the_default(project: Path) -> None:
    class Named(Pair):
        def get_key(self, item: int) -> str:
            return "left/" + super().get_key(item)

    dataset = Named()
    assert dataset.get_key(0) == "left/0"
    dataset.root = "/data"
    assert dataset.get_key(1) == "left/1.png"
    dataset.root = None
    assert dataset.get_key(1) == "left/" + default_key(["/data/1.png"], 1, root_at(project))


def test_an_attribute_root_that_is_no_path_is_refused() -> None:
    dataset = Pair()
    dataset.root = 5  # type: ignore[assignment]
    with pytest.raises(DatasetError, match="attribute root is 5"):
        dataset.get_key(0)


def test_a_dataset_without_length_or_label_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ProcessorDataset()  # type: ignore[abstract]
