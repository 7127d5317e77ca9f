"""The declared datasets: told from the source where it says them plainly, and not guessed elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchkit.project.declared import declared_datasets, find_names

ENTRY = "(Notes(), NotesChunk, {}, [], {{}})"
TEMPLATE = Path(__file__).resolve().parents[2] / "project_template"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (f"return [{ENTRY.format(chr(34) + 'a' + chr(34))}]", ["a"]),
        (f"return ({ENTRY.format('1')},)", None),
        (f"data = [{ENTRY.format(repr('a'))}, {ENTRY.format(repr('b'))}]\n    return data", ["a", "b"]),
        (f"data = [{ENTRY.format(repr('a'))}]\n    data.append(x)\n    return data", None),
        (f"data = [{ENTRY.format(repr('a'))}]\n    data += more\n    return data", None),
        ("return [entry(n) for n in range(3)]", None),
        ("return make()", None),
        ("return []", []),
        ("return [(1, 2, 'a')]", None),
        ("if x:\n        return []\n    return []", None),
        ("pass", None),
    ],
)
def test_names_are_told_only_from_a_list_that_is_written_out(body: str, names: list[str] | None) -> None:
    assert find_names(f"import x\n\n\ndef main():\n    {body}\n") == names


def test_source_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    assert find_names("def main(:") is None
    assert find_names("main = lambda: []") is None
    assert declared_datasets(tmp_path) == []
    (tmp_path / "Datasets").mkdir()
    (tmp_path / "Datasets/ProjectDatasets.py").write_bytes(b"\xff")
    assert declared_datasets(tmp_path) is None


def test_the_template_says_its_datasets_plainly() -> None:
    assert declared_datasets(TEMPLATE) == ["train", "val"]
