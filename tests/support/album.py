"""An album: a folder of files with labels that is edited and packed again and again."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

from benchkit.data import ProcessorDataset
from benchkit.data.catalogue import find_version, read_manifest
from benchkit.data.pack import JOURNAL_FOLDER
from benchkit.data.staged import find_index
from benchkit.format.manifest import Manifest
from benchkit.store.base import Store

CHUNK_BYTES = 64 << 10
"""The size of an album's chunks."""


class Pictures(ProcessorDataset):
    """The files of a folder, in order of name, and their labels."""

    def __init__(self, root: Path, labels: dict[str, Any]) -> None:
        self.root = root
        self.names = sorted(labels)
        self.labels = [labels[name] for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def get_file(self, item: int) -> list[str]:
        return [str(self.root / self.names[item])]

    def get_label_and_numeric_data(self, item: int) -> Any:
        return self.labels[item]


class Album:
    """A folder of files of random bytes; all that is random is drawn from one seed.

    Attributes:
        root: The folder.
        labels: The label of each file, by its name.
    """

    def __init__(self, root: Path, *, files: int = 0, seed: int = 0) -> None:
        self.root = root
        self.labels: dict[str, Any] = {}
        self.random = random.Random(seed)
        self._made = 0
        self._clock = 10**18
        root.mkdir(parents=True)
        for _ in range(files):
            self.add()

    def add(self) -> str:
        """Add a file, and return its name."""
        name = f"{self._made:05d}.bin"
        self._made += 1
        self.labels[name] = self._made
        self.change(name, size=self.random.randrange(1, 2000))
        return name

    def change(self, name: str, *, size: int | None = None) -> None:
        """Give a file other contents, at a later time; the size stays unless it is given."""
        size = self.size(name) if size is None else size
        (self.root / name).write_bytes(self.random.randbytes(size))
        self.touch(name)

    def touch(self, name: str) -> None:
        """Give a file a later time."""
        self._clock += 1
        os.utime(self.root / name, ns=(self._clock, self._clock))

    def remove(self, name: str) -> None:
        """Remove a file."""
        del self.labels[name]
        (self.root / name).unlink()

    def rename(self, name: str) -> None:
        """Give a file another name."""
        self.labels[f"r{name}"] = self.labels.pop(name)
        (self.root / name).rename(self.root / f"r{name}")

    def size(self, name: str) -> int:
        """Return a file's size."""
        return (self.root / name).stat().st_size

    def draw(self, count: int) -> list[str]:
        """Return the names of some files."""
        return self.random.sample(sorted(self.labels), min(count, len(self.labels)))

    def edit(self, count: int) -> dict[str, set[str]]:
        """Make so many random edits, and return the names of what was edited, by kind of edit."""
        kinds = ("add", "change", "resize", "label", "touch", "rename", "remove")
        edited: dict[str, set[str]] = {kind: set() for kind in kinds}
        for name in self.draw(count):
            kind = self.random.choice(kinds)
            edited[kind].add(self.add() if kind == "add" else name)
            if kind == "change":
                self.change(name)
            elif kind == "resize":
                self.change(name, size=self.size(name) + 1)
            elif kind == "label":
                self.labels[name] = [self.labels[name]]
            elif kind == "touch":
                self.touch(name)
            elif kind == "rename":
                self.rename(name)
            elif kind == "remove":
                self.remove(name)
        return edited

    @property
    def dataset(self) -> Pictures:
        """The dataset as it is now."""
        return Pictures(self.root, self.labels)

    @property
    def contents(self) -> dict[str, tuple[Any, list[tuple[str, bytes]]]]:
        """What is to be read back: label and files, by key."""
        return {
            name: (label, [(name, (self.root / name).read_bytes())]) for name, label in self.labels.items()
        }


def manifest_of(store: Store, number: int | None = None) -> Manifest:
    """Return the manifest of a version of the dataset `train`."""
    return read_manifest(store, find_version(store, "train", number=number))


def stored(manifest: Manifest) -> list[str]:
    """Return the stored digests of a manifest's chunks."""
    return [chunk.stored for chunk in manifest.chunks]


def keys_of(store: Store, manifest: Manifest, number: int) -> list[str]:
    """Return the keys of a chunk's rows."""
    chunk = manifest.chunks[number]
    index = find_index(store, None, "train", chunk)
    assert index
    return [index.key(row) for row in range(chunk.samples)]


def forget(project: Path) -> None:
    """Remove the journal, as on another machine."""
    shutil.rmtree(project / JOURNAL_FOLDER)
