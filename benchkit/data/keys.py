"""Keys: the text by which a sample is known in every version, the same on any machine.

The default key is the first file's POSIX path relative to the project folder (or to the dataset's `root`),
`..` allowed; for a sample without files it is the decimal index. The n-th repeat of a key gets `#n`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchkit.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRoot:
    """The folder that default keys are relative to.

    Attributes:
        folder: Its absolute path, as it was given.
        prefixes: What a path below it begins with: as given, and with symbolic links resolved.
    """

    folder: str
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, root: object, *, project: Callable[[], str | os.PathLike[str]]) -> KeyRoot:
        """Return the root of a dataset: its own `root`, or where that is None, the project folder.

        Raises:
            DatasetError: The attribute is no path.
        """
        if root is not None and not isinstance(root, str | os.PathLike):
            raise DatasetError(
                f"the dataset's attribute root is {root!r:.60}; it is taken for the folder that keys are "
                "relative to: make it a path, or give the attribute another name"
            )
        folder = os.path.abspath(os.fspath(project() if root is None else root))
        places = dict.fromkeys((folder, os.path.realpath(folder)))
        return cls(folder=folder, prefixes=tuple(place.rstrip("/") + "/" for place in places))


def default_key(paths: Sequence[str], index: int, root: KeyRoot) -> str:
    """Return the key of a sample whose dataset has no rule of its own.

    Args:
        paths: Its files, as `get_file` gave them.
        index: Its index, the key where there are no files.
        root: What the first path is taken relative to.
    """
    if not paths:
        return str(index)
    path = paths[0]
    if path[:1] != "/" or "//" in path or "/." in path:
        path = os.path.abspath(path)
    for prefix in root.prefixes:
        if path.startswith(prefix):
            return path[len(prefix) :]
    return os.path.relpath(path, root.folder)


def default_keys(paths: Sequence[Sequence[str]], indices: Sequence[int], root: KeyRoot) -> list[str]:
    """Return the default keys of samples, whose files are these."""
    prefix = root.prefixes[0]
    keys = [files[0][len(prefix) :] for files in paths if files and files[0].startswith(prefix)]
    text = "/" + "\0/".join(keys)
    if len(keys) == len(paths) and "//" not in text and "/." not in text:
        return keys
    return [default_key(files, index, root) for files, index in zip(paths, indices, strict=True)]


def repeat_key(key: str, repeat: int) -> str:
    """Return the key of the `repeat`-th sample that has a default key again; 0 is the first that has it."""
    return f"{key}#{repeat}" if repeat else key
