"""Bench-Kit packs a dataset into plain tar chunks, ships it through an object store, and streams it exactly.

Every public name is here and is loaded on first use, so that importing the package loads neither torch nor a
store's client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchkit.data import ProcessorDataset
    from benchkit.stream import (
        ChunkDataset,
        IterableChunk,
        LoaderOptions,
        Shard,
        decode_image,
        get_dataset,
    )
    from benchkit.train import (
        BenchAccelerateTracker,
        ExperimentLogger,
        get_accelerator,
        load_model_checkpoint,
        upload_model_checkpoint,
        wipe_temp,
    )

__version__ = "0.1.0"

__all__ = [
    "BenchAccelerateTracker",
    "ChunkDataset",
    "ExperimentLogger",
    "IterableChunk",
    "LoaderOptions",
    "ProcessorDataset",
    "Shard",
    "__version__",
    "decode_image",
    "get_accelerator",
    "get_dataset",
    "load_model_checkpoint",
    "upload_model_checkpoint",
    "wipe_temp",
]

_OWNERS = {
    "BenchAccelerateTracker": "benchkit.train",
    "ChunkDataset": "benchkit.stream",
    "ExperimentLogger": "benchkit.train",
    "IterableChunk": "benchkit.stream",
    "LoaderOptions": "benchkit.stream",
    "ProcessorDataset": "benchkit.data",
    "Shard": "benchkit.stream",
    "decode_image": "benchkit.stream",
    "get_accelerator": "benchkit.train",
    "get_dataset": "benchkit.stream",
    "load_model_checkpoint": "benchkit.train",
    "upload_model_checkpoint": "benchkit.train",
    "wipe_temp": "benchkit.train",
}


def __getattr__(name: str) -> object:
    owner = _OWNERS.get(name)
    if owner is None:
        raise AttributeError(f"module 'benchkit' has no attribute {name!r}")
    return getattr(importlib.import_module(owner), name)


def __dir__() -> list[str]:
    return sorted(__all__)
