"""benchkit in `exactness.py`: packed, uploaded, and streamed by `get_dataset`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from exactness_samples import PER_CHUNK, SIZE_BYTES, content, sample_of

from benchkit import IterableChunk, ProcessorDataset, get_dataset
from benchkit.data.pack import pack
from benchkit.data.sizes import CHUNK_OVERHEAD
from benchkit.data.upload import upload
from benchkit.store.local import LocalStore

# What a sample takes in a tar: its members with their headers, and its share of the index.
_PLACE_BYTES = SIZE_BYTES + 2048


class Files(ProcessorDataset):
    """The samples as files."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._folder = folder
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def get_file(self, item: int) -> list[str]:
        return [str(self._folder / f"{item:06d}.bin")]

    def get_label_and_numeric_data(self, item: int) -> int:
        return item


class Numbers(IterableChunk):
    """The samples, counted as they are loaded."""

    def _data_iterator(self) -> Iterator[tuple[int, np.ndarray]]:
        for label, files in super()._data_iterator():
            yield sample_of(label, files[0].read())


def write(folder: Path, samples: int) -> None:
    """Pack the samples in a project, and upload them to its store."""
    files = folder / "files"
    files.mkdir(parents=True)
    (folder / "benchkit.toml").write_text('[project]\nid = "exactness"\nremote = "store"\n')
    for number in range(samples):
        (files / f"{number:06d}.bin").write_bytes(content(number))
    staging, remote = LocalStore(folder / "ProjectDatasets"), LocalStore(folder / "store")
    size = PER_CHUNK * _PLACE_BYTES + CHUNK_OVERHEAD
    pack(Files(files, samples), "numbers", staging=staging, project=folder, chunk_bytes=size, codec="none")
    upload(staging, remote, "numbers")


def load(folder: Path, cache: Path, way: str, workers: int, batch_size: int, *, alone: bool) -> object:
    """Return the loader; the project and the cache are in the environment."""
    del folder, cache, way, alone
    return get_dataset(Numbers, True, "numbers", batch_size, workers)
