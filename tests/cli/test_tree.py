"""A tree of files as text."""

from __future__ import annotations

from benchkit.cli.tree import tree

SIZES = [("b.py", 3), ("a/x.py", 1), ("a/b/c/d.py", 2), ("a/b/e.py", 2048), ("\x1b[2J", 0)]


def test_folders_stand_before_files_and_names_steer_nothing() -> None:
    assert tree("p.zip", SIZES, depth=4).splitlines() == [
        "p.zip",
        "├── a/",
        "│   ├── b/",
        "│   │   ├── c/",
        "│   │   │   └── d.py  2 B",
        "│   │   └── e.py  2.00 KiB",
        "│   └── x.py  1 B",
        "├── \\x1b[2J  0 B",
        "└── b.py  3 B",
    ]


def test_below_the_depth_folders_are_counted() -> None:
    assert tree("p.zip", SIZES, depth=1).splitlines()[1] == "├── a/  3 files, 2.00 KiB"
