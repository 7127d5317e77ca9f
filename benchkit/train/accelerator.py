"""The accelerator: Accelerate's `Accelerator`, made with every argument as it was given."""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration

from benchkit.errors import ProjectError, UsageError
from benchkit.settings import find_project, read_world, started_by_torchrun
from benchkit.stream.loader import ChunkLoader
from benchkit.train.orphans import end_with_parent
from benchkit.train.tracker import BenchAccelerateTracker
from benchkit.train.uploads import UPLOADS

LOGS = Path(".benchkit") / "logs"

# Process groups that were taken down, kept to the end of the process. A gloo group that goes while a thread
# of its own lets go of the last tensors hangs: it waits for that thread and keeps Python's lock meanwhile.
_ENDED: list[object] = []

_LAST_PAUSE_SECONDS = 0.05
"""How long the end of a rank leaves Python's lock to others."""


class BenchAccelerator(Accelerator):  # type: ignore[misc]
    """An `Accelerator` to which a loss function can be given too, on CPUs as on GPUs.

    The project's trackers learn from it which datasets are trained on.
    """

    def prepare(self, *objects: Any, **options: Any) -> Any:
        """Return the objects prepared, as `accelerate.Accelerator.prepare` does."""
        prepared = super().prepare(*objects, **options)
        for tracker in self.log_with:
            if isinstance(tracker, BenchAccelerateTracker):
                tracker.log_dataset(*(loader for loader in objects if isinstance(loader, ChunkLoader)))
        return prepared

    def prepare_model(
        self, model: torch.nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> torch.nn.Module:
        """Return the model, distributed unless nothing in it is trained, which torch refuses."""
        trained = any(parameter.requires_grad for parameter in model.parameters())
        prepared: torch.nn.Module = super().prepare_model(
            model, device_placement=device_placement, evaluation_mode=evaluation_mode or not trained
        )
        return prepared

    def end_training(self) -> None:
        """End the trackers, when this process's upload has ended; its error is raised here."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            _ENDED.append(torch.distributed.group.WORLD)
        try:
            UPLOADS.wait()
        finally:
            super().end_training()


def get_accelerator(
    *,
    split_batches: bool = False,
    log_with: Any = None,
    even_batches: bool = True,
    step_scheduler_with_optimizer: bool = True,
    dynamo_backend: str | None = None,
    gradient_accumulation_steps: int = 1,
    mixed_precision: str | None = None,
    cpu: bool = False,
    rng_types: list[str] | None = None,
    kwargs_handlers: list[Any] | None = None,
) -> BenchAccelerator:
    """Return an `accelerate.Accelerator`; its `prepare` leaves the project's loaders as they are.

    Args:
        split_batches: Has no effect on the project's loaders, whose batch size is per process; True is
            refused where several processes run, since it would promise otherwise.
        log_with: A tracker, its name, or a list of these. Those that need a folder, as "tensorboard", get
            `.benchkit/logs/` in the project.
        even_batches: Has no effect on the project's loaders, which give every rank as many batches.
        step_scheduler_with_optimizer: Whether the learning rate scheduler steps with the optimizer.
        dynamo_backend: Backend of `torch.compile`, None for none.
        gradient_accumulation_steps: Batches per optimizer step.
        mixed_precision: `no`, `fp16`, `bf16` or `fp8`; None takes the launcher's.
        cpu: True stays on the CPU where there is a GPU.
        rng_types: Random generators that Accelerate synchronizes at the start of its own loaders.
        kwargs_handlers: Accelerate's own option objects.

    Raises:
        UsageError: `split_batches` is True and there are several processes.
    """
    if started_by_torchrun():
        end_with_parent()
    accelerator = BenchAccelerator(
        dataloader_config=DataLoaderConfiguration(split_batches=split_batches, even_batches=even_batches),
        log_with=log_with,
        project_config=ProjectConfiguration(logging_dir=_logging_folder()),
        step_scheduler_with_optimizer=step_scheduler_with_optimizer,
        dynamo_backend=dynamo_backend,
        gradient_accumulation_steps=gradient_accumulation_steps,
        mixed_precision=mixed_precision,
        cpu=cpu or _runs_several_on_cpus(),
        rng_types=rng_types,
        kwargs_handlers=kwargs_handlers,
    )
    if accelerator.num_processes > 1:
        atexit.unregister(_pause)  # once is enough
        atexit.register(_pause)
    if split_batches and accelerator.num_processes > 1:
        raise UsageError(
            "split_batches=True has no effect on Bench-Kit's loaders, whose batch_size is per process: "
            f"leave it out, and divide the batch size by the {accelerator.num_processes} processes"
        )
    return accelerator


def _pause() -> None:
    """Let gloo's threads have Python's lock, which they take to let go of the last tensors.

    Before 3.14 Python aborts a process that ends while such a thread waits for it.
    """
    time.sleep(_LAST_PAUSE_SECONDS)


def _logging_folder() -> str | None:
    """Return where trackers that need a folder log, None where there is no project."""
    try:
        return str(find_project() / LOGS)
    except ProjectError:
        return None


def _runs_several_on_cpus() -> bool:
    """Return whether several processes were started where there is no device that joins them.

    There Accelerate joins them only when told to stay on the CPU; else each takes itself for the only one.
    """
    world = read_world()
    return world is not None and world[1] > 1 and not (torch.cuda.is_available() or torch.xpu.is_available())
