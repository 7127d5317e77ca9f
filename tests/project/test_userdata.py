"""Laws of what `main()` in `Datasets/ProjectDatasets.py` may list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchkit.errors import ProjectError, UsageError
from benchkit.project.userdata import UserDataset, load_datasets

HEAD = """\
from benchkit import IterableChunk, ProcessorDataset


class Numbers(ProcessorDataset):
    def __len__(self):
        return 3

    def get_label_and_numeric_data(self, item):
        return item


"""

Load = Callable[..., list[UserDataset]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function that loads the datasets of a project whose module has this text behind its head."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("Datasets", "Datasets.ProjectDatasets"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]

    def run(text: str, name: str | None = None) -> list[UserDataset]:
        (tmp_path / "Datasets").mkdir()
        (tmp_path / "Datasets/ProjectDatasets.py").write_text(HEAD + text)
        return load_datasets(tmp_path, name)

    return run


def listing(*entries: str) -> str:
    return f"def main():\n    return [{', '.join(entries)}]\n"


TRAIN = '(Numbers(), IterableChunk, "train", [1], {"seed": 2})'
VAL = '(Numbers(), IterableChunk, "val", (), {})'


def test_all_that_main_lists_comes_back_in_its_order(load: Load) -> None:
    train, val = load(listing(TRAIN, VAL))
    assert (train.name, list(train.args), train.kwargs) == ("train", [1], {"seed": 2})
    assert (val.name, list(val.args), val.kwargs) == ("val", [], {})
    assert len(train.processor) == 3
    assert train.chunk_class.__name__ == "IterableChunk"


def test_a_name_chooses_one(load: Load) -> None:
    (val,) = load(listing(TRAIN, VAL), "val")
    assert val.name == "val"


def test_a_name_that_is_not_listed_is_answered_with_those_that_are(load: Load) -> None:
    with pytest.raises(UsageError, match="does not list 'trian'; it lists: train, val"):
        load(listing(TRAIN, VAL), "trian")


@pytest.mark.parametrize("name", [None, "train"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"needs a function main\(\) that returns a list of tuples \(ProcessorDataset object, "),
        ("main = 3\n", r"needs a function main\(\)"),
        ("def main(project):\n    pass\n", r"ProjectDatasets.py failed: TypeError: main\(\) missing 1"),
        ("def main():\n    pass\n", r"needs a function main\(\)"),
        ("def main():\n    yield 1\n", r"needs a function main\(\)"),
        ("def main():\n    return {'train': 1}\n", r"needs a function main\(\)"),
        (listing(), "lists no dataset"),
        (listing("None"), "entry 0 of .* is None, not a tuple"),
        (listing(TRAIN, "'train'"), "entry 1 of .* is 'train', not a tuple"),
        (listing('(Numbers(), IterableChunk, "train")'), "entry 0 .* not a tuple"),
        (listing('(Numbers, IterableChunk, "train", [], {})'), "entry 0 .*Numbers.*, not with a Proc"),
        (listing('(Numbers(), Numbers, "train", [], {})'), "entry 0 .* where an IterableChunk class"),
        (
            listing('(Numbers(), IterableChunk("train", False), "train", [], {})'),
            "entry 0 .* object at .* where an IterableChunk class belongs",
        ),
        (listing("(Numbers(), IterableChunk, 7, [], {})"), "entry 0 .* needs a name"),
        (listing('(Numbers(), IterableChunk, "train", "args", {})'), "entry 0 .* a list of args"),
        (listing('(Numbers(), IterableChunk, "train", [], [])'), "entry 0 .* a dict of kwargs"),
        (listing('(Numbers(), IterableChunk, "a/b", [], {})'), "entry 0 .*'a/b' is no dataset name"),
        (listing('(Numbers(), IterableChunk, "", [], {})'), "entry 0 .*'' is no dataset name"),
        (listing(TRAIN, VAL, TRAIN), "lists 'train' more than once"),
    ],
)
def test_rubbish_is_refused_by_its_place_even_where_another_is_asked_for(
    load: Load, text: str, words: str, name: str | None
) -> None:
    with pytest.raises(ProjectError, match=words):
        load(text, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def main(:\n    pass\n", "ProjectDatasets.py, line 12: SyntaxError: "),
        ("import nothing_here\n", "ProjectDatasets.py, line 12: ModuleNotFoundError: .*nothing_here"),
        ("import json\njson.loads('{')\n", "ProjectDatasets.py, line 13: JSONDecodeError"),
        ("def main():\n    return [1 / 0]\n", "ProjectDatasets.py, line 13: ZeroDivisionError"),
        ("import sys\nsys.exit('no data')\n", "ProjectDatasets.py, line 13: SystemExit: no data"),
        ("def main(required):\n    return []\n", "TypeError: .*required"),
        ("class Bad(Numbers, int, str): ...\n", "line 12: TypeError"),
    ],
)
def test_what_goes_wrong_in_the_users_module_is_told_with_its_line_there(
    load: Load, text: str, words: str
) -> None:
    with pytest.raises(ProjectError, match=words):
        load(text)


def test_a_missing_module_names_the_file_and_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"ProjectDatasets\.py is missing.*bench-kit startproject"):
        load_datasets(tmp_path)
