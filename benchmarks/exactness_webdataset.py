"""webdataset in `exactness.py`: tar shards, split by node as its documentation says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import webdataset
from exactness_samples import PER_CHUNK, content, sample_of
from torch.utils.data import DataLoader, default_collate


def write(folder: Path, samples: int) -> None:
    """Write the samples as tar shards."""
    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=PER_CHUNK, verbose=0) as writer:
        for number in range(samples):
            writer.write({"__key__": f"{number:06d}", "cls": str(number), "bin": content(number)})


def load(folder: Path, cache: Path, way: str, workers: int, batch_size: int, *, alone: bool) -> object:
    """Return a loader.

    Args:
        folder: Where the shards are.
        cache: Where webdataset caches them.
        way: `split_by_node` gives each rank shards of its own; `resampled` draws shards at random, so that
            ranks can be given equal steps; `all shards` gives every rank all, and Accelerate splits.
        workers: Processes that load.
        batch_size: Samples of a batch.
        alone: As the documentation has it, batched by webdataset; else torch's DataLoader.
    """
    cache.mkdir(parents=True, exist_ok=True)
    # webdataset caches what it does not think a local file.
    urls = [f"pipe:cat {path}" for path in sorted(folder.iterdir())]
    dataset = webdataset.WebDataset(
        urls,
        nodesplitter=None if way == "all shards" else webdataset.split_by_node,
        resampled=way == "resampled",
        shardshuffle=False,
        cache_dir=str(cache),
    )
    dataset = dataset.to_tuple("cls", "bin").map(_read)
    if not alone:
        return DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    batched = dataset.batched(batch_size, collation_fn=default_collate)
    loader = webdataset.WebLoader(batched, batch_size=None, num_workers=workers)
    # Two ranks of so many shards each; a resampled dataset has no end of its own.
    return loader.with_epoch(len(urls) * PER_CHUNK // (2 * batch_size)) if way == "resampled" else loader


def _read(sample: tuple[bytes, bytes]) -> tuple[int, np.ndarray]:
    return sample_of(int(sample[0]), sample[1])
