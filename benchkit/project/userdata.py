"""The user's datasets: what `main()` in `Datasets/ProjectDatasets.py` lists, checked before it is used."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.data import ProcessorDataset
from benchkit.errors import ProjectError, UsageError
from benchkit.format.layout import check_dataset_name
from benchkit.stream.chunks import IterableChunk

MODULE = "Datasets.ProjectDatasets"
SHAPE = "(ProcessorDataset object, IterableChunk class, name, args, kwargs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDataset:
    """One line of the list that `main()` returns."""

    processor: ProcessorDataset
    chunk_class: type[IterableChunk]
    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]


def load_datasets(project: Path, name: str | None = None) -> list[UserDataset]:
    """Return what `main()` lists, or the one of that name.

    Raises:
        ProjectError: The module is missing, fails, or lists nothing, or something else than datasets.
        UsageError: It lists no dataset of that name.
    """
    listed = [_read_entry(entry, number) for number, entry in enumerate(_call_main(project))]
    if not listed:
        raise ProjectError(f"main() in {_path(project)} lists no dataset: list at least one tuple {SHAPE}")
    names = [dataset.name for dataset in listed]
    repeated = {entry for entry in names if names.count(entry) > 1}
    if repeated:
        raise ProjectError(f"main() in {_path(project)} lists {min(repeated)!r} more than once")
    if name is None:
        return listed
    if name not in names:
        raise UsageError(f"main() in {_path(project)} does not list {name!r}; it lists: {', '.join(names)}")
    return [listed[names.index(name)]]


def _call_main(project: Path) -> Sequence[Any]:
    if not _path(project).is_file():
        raise ProjectError(f'{_path(project)} is missing; "bench-kit startproject" makes one to begin with')
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    try:
        main = getattr(importlib.import_module(MODULE), "main", None)
        result = main() if callable(main) else None
    except (Exception, SystemExit) as error:
        raise ProjectError(
            f"{_path(project)} failed{_place(error, project)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(result, list | tuple):
        raise ProjectError(f"{_path(project)} needs a function main() that returns a list of tuples {SHAPE}")
    return result


def _read_entry(entry: Any, number: int) -> UserDataset:
    where = f"entry {number} of main()'s list"
    if not isinstance(entry, list | tuple) or len(entry) != 5:
        raise ProjectError(f"{where} is {entry!r:.80}, not a tuple {SHAPE}")
    processor, chunk_class, name, args, kwargs = entry
    if not isinstance(processor, ProcessorDataset):
        raise ProjectError(f"{where} begins with {processor!r:.80}, not with a ProcessorDataset object")
    if not (isinstance(chunk_class, type) and issubclass(chunk_class, IterableChunk)):
        raise ProjectError(f"{where} has {chunk_class!r:.80} where an IterableChunk class belongs")
    if not isinstance(name, str) or not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise ProjectError(
            f"{where} needs a name, a list of args and a dict of kwargs behind the two classes"
        )
    try:
        check_dataset_name(name)
    except UsageError as error:
        raise ProjectError(f"{where}: {error}") from error
    return UserDataset(processor=processor, chunk_class=chunk_class, name=name, args=args, kwargs=kwargs)


def _path(project: Path) -> Path:
    return project / "Datasets" / "ProjectDatasets.py"


def _place(error: BaseException, project: Path) -> str:
    """Return where the user's code failed: its innermost line in the project, not in what it called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(project)]
    return f" at {own[-1].filename}, line {own[-1].lineno}" if own else ""
