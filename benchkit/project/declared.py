"""The datasets that a project declares, by name: read from its source where that says it plainly.

Importing `Datasets/ProjectDatasets.py` loads torch and may read all of the user's data; naming the datasets
should do neither.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

DATASETS_FILE = "Datasets/ProjectDatasets.py"

_TUPLE_LENGTH, _NAME_INDEX = 5, 2


def declared_datasets(project: Path) -> list[str] | None:
    """Return the names that `main()` lists; None where only running it would tell.

    A project without `Datasets/ProjectDatasets.py` declares none.
    """
    path = project / DATASETS_FILE
    if not path.is_file():
        return []
    try:
        return find_names(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def find_names(source: str) -> list[str] | None:
    r"""Return the names in the list that a module's `main()` returns, if it is written out in one place.

    >>> find_names("def main():\n    return [(A(), B, 'train', [], {})]")
    ['train']
    >>> find_names("def main():\n    return make()") is None
    True
    """
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    mains = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    if len(mains) != 1:
        return None
    returns = [node.value for node in ast.walk(mains[0]) if isinstance(node, ast.Return)]
    if len(returns) != 1:
        return None
    listed = returns[0]
    if isinstance(listed, ast.Name):
        listed = _only_value(mains[0], listed.id)
    return _names(listed.elts) if isinstance(listed, ast.List | ast.Tuple) else None


def _only_value(function: ast.FunctionDef, name: str) -> ast.expr | None:
    """Return what a name is bound to, if it is named twice: there, and where it is returned."""
    uses = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
    values = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and any(target in uses for target in node.targets)
    ]
    return values[0] if len(uses) == 2 and len(values) == 1 else None


def _names(entries: Sequence[ast.expr]) -> list[str] | None:
    names = []
    for entry in entries:
        if not isinstance(entry, ast.Tuple | ast.List) or len(entry.elts) != _TUPLE_LENGTH:
            return None
        name = entry.elts[_NAME_INDEX]
        if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
            return None
        names.append(name.value)
    return names
