"""The train layer: the accelerator and what a run leaves behind.

Its names are loaded on first use: what only reads checkpoints or experiments loads no Accelerate.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchkit.train.accelerator import get_accelerator
    from benchkit.train.checkpoint import load_model_checkpoint, upload_model_checkpoint
    from benchkit.train.checkpoint_record import Checkpoint
    from benchkit.train.experiment_logger import ExperimentLogger
    from benchkit.train.temporary import temporary_folder, wipe_temp
    from benchkit.train.tracker import BenchAccelerateTracker

__all__ = [
    "BenchAccelerateTracker",
    "Checkpoint",
    "ExperimentLogger",
    "get_accelerator",
    "load_model_checkpoint",
    "temporary_folder",
    "upload_model_checkpoint",
    "wipe_temp",
]

_OWNERS = {
    "BenchAccelerateTracker": "benchkit.train.tracker",
    "Checkpoint": "benchkit.train.checkpoint_record",
    "ExperimentLogger": "benchkit.train.experiment_logger",
    "get_accelerator": "benchkit.train.accelerator",
    "load_model_checkpoint": "benchkit.train.checkpoint",
    "temporary_folder": "benchkit.train.temporary",
    "upload_model_checkpoint": "benchkit.train.checkpoint",
    "wipe_temp": "benchkit.train.temporary",
}


def __getattr__(name: str) -> object:
    owner = _OWNERS.get(name)
    if owner is None:
        raise AttributeError(f"module 'benchkit.train' has no attribute {name!r}")
    return getattr(importlib.import_module(owner), name)


def __dir__() -> list[str]:
    return sorted(__all__)
