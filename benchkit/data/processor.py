"""`ProcessorDataset`: what a user's class inherits to say what a sample is made of."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

from benchkit.data.keys import KeyRoot, default_key
from benchkit.settings import find_project


class ProcessorDataset(ABC):
    """A dataset as it lies on a disk: for every index a label, and any number of files.

    Packing calls its methods in several processes, in no particular order; for one index they always return
    the same. `__init__` needs no call of `super().__init__`.

    Attributes:
        root: The folder that default keys are relative to; None is the project folder. The same dataset in
            two places packs to the same bytes when its files have the same paths below it.

    Example::

        class CatDog(ProcessorDataset):
            def __init__(self, folder, names):
                self._folder, self._names = folder, names

            def __len__(self):
                return len(self._names)

            def get_file(self, item):
                return [os.path.join(self._folder, self._names[item])]

            def get_label_and_numeric_data(self, item):
                return 0 if self._names[item].startswith("cat") else 1
    """

    root: str | os.PathLike[str] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def get_label_and_numeric_data(self, item: int) -> Any:
        """Return the sample's label: int, float, bool, str, None, arrays, tensors, any nesting of these."""

    def get_file(self, item: int) -> list[str]:  # noqa: ARG002
        """Return the paths of the sample's files; none by default."""
        return []

    def get_key(self, item: int) -> str:
        """Return the name by which the sample is known in every version; no two samples share one.

        By default the first file's path relative to `root`, `/` between its parts; the index for a sample
        without files. While packing, the second sample of one default key gets `#1` behind it, and so on.
        """
        root = KeyRoot.of(self.root, project=find_project)
        return default_key([os.fspath(path) for path in self.get_file(item)], item, root)
