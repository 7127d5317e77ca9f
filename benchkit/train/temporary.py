"""The temporary folder of a training run, shared by its processes on one machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from accelerate import Accelerator

from benchkit.settings import find_project

TEMPORARY = Path(".benchkit") / "tmp"


def temporary_folder(accelerator: Accelerator) -> Path:
    """Return the run's temporary folder in the project, made when missing; `wipe_temp` removes it."""
    folder = _folder_of(accelerator)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wipe_temp(accelerator: Accelerator) -> None:
    """Remove the run's temporary folder, once all its processes have come here; the chunk cache stays.

    Call it on every rank, after an epoch for instance; where there is nothing to remove, nothing happens.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        folder = _folder_of(accelerator)
        if folder.is_dir():
            shutil.rmtree(folder)
    accelerator.wait_for_everyone()


def _folder_of(accelerator: Accelerator) -> Path:
    """Return the folder's path: the ranks of a machine have one launcher, whose process id names the run."""
    owner = os.getppid() if accelerator.num_processes > 1 else os.getpid()
    return find_project() / TEMPORARY / f"run-{owner}"
