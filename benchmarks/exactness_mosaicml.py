"""mosaicml-streaming in `exactness.py`: MDS shards, streamed by its own dataset and loader."""

from __future__ import annotations

from pathlib import Path

import exactness_torchvision  # noqa: F401  mosaicml-streaming imports torchvision
import numpy as np
import streaming
from exactness_samples import PER_CHUNK, SIZE_BYTES, content, sample_of

# What a shard holds besides the bytes of its samples: less than a sample.
_EXTRA_BYTES = SIZE_BYTES // 2


class Numbers(streaming.StreamingDataset):
    """The samples, counted as they are loaded."""

    def __getitem__(self, at: object) -> tuple[int, np.ndarray]:
        sample = super().__getitem__(at)
        return sample_of(sample["label"], sample["data"])


def write(folder: Path, samples: int) -> None:
    """Write the samples as MDS shards, with hashes."""
    columns = {"label": "int", "data": "bytes"}
    size = PER_CHUNK * SIZE_BYTES + _EXTRA_BYTES
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=size, hashes=["xxh64"]) as writer:
        for number in range(samples):
            writer.write({"label": number, "data": content(number)})


def load(folder: Path, cache: Path, way: str, workers: int, batch_size: int, *, alone: bool) -> object:
    """Return its loader, which compares hashes as it fetches: an option that is off by default."""
    del way, alone
    dataset = Numbers(remote=str(folder), local=str(cache), batch_size=batch_size, validate_hash="xxh64")
    return streaming.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers)
