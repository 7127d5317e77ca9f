"""The train layer: the accelerator and what a run leaves behind."""

from benchkit.train.accelerator import get_accelerator
from benchkit.train.temporary import temporary_folder, wipe_temp

__all__ = ["get_accelerator", "temporary_folder", "wipe_temp"]
