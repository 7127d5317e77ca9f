"""The state of an Accelerator: written into a folder, and read from one by any number of processes.

Accelerate writes and reads the files; this module knows the private corners that make that exact. Parameters
are saved under the model's own names, without what distributing or compiling it adds, so that another number
of processes finds them again. A rank that did not exist when the state was saved gets random numbers seeded
from the checkpoint's id and its rank: the same at every load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.nn.parallel import DistributedDataParallel

from benchkit.errors import BenchKitError, CorruptError, StateError, StoreError, UsageError
from benchkit.format.digests import digest_key
from benchkit.stream.loader import ChunkLoader
from benchkit.train.checkpoint_record import Checkpoint
from benchkit.train.trust import check_plans, read_plain, tensors_only

_HOLDERS = {
    "models": "_models",
    "optimizers": "_optimizers",
    "schedulers": "_schedulers",
    "loaders": "_dataloaders",
    "objects": "_custom_objects",
}
_SEED_BYTES = 4


def check_ready(accelerator: Accelerator) -> None:
    """Raise `UsageError` unless the Accelerator holds a state that can be saved or loaded."""
    if not count_prepared(accelerator)["models"]:
        raise UsageError(
            "this Accelerator holds no model, so the checkpoint would be empty: prepare the model first, and "
            "call free_memory(), which forgets all that was prepared, only when the run has ended"
        )
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise UsageError(
            f"{accelerator.distributed_type.value} keeps its state in files of its own, which are unpickled "
            "without a limit: use its own checkpoints, or DDP or FSDP"
        )
    if accelerator.project_configuration.automatic_checkpoint_naming:
        raise UsageError("automatic_checkpoint_naming takes the folder out of our hands: leave it out")


def check_between_steps(accelerator: Accelerator) -> None:
    """Raise `UsageError` where gradients wait for the optimizer: no checkpoint of Accelerate's holds them."""
    if accelerator.gradient_accumulation_steps > 1 and not accelerator.sync_gradients:
        raise UsageError(
            "gradients of some batches have not been applied yet, and a checkpoint would lose them: save "
            "where accelerator.sync_gradients is true"
        )


def count_prepared(accelerator: Accelerator) -> dict[str, int]:
    """Return how many models, optimizers, schedulers, loaders and registered objects it holds."""
    return {kind: len(getattr(accelerator, holder)) for kind, holder in _HOLDERS.items()}


def loader_states(accelerator: Accelerator) -> tuple[dict[str, Any], ...]:
    """Return the states of the project's loaders among those that were prepared."""
    states = (loader.state_dict() for loader in accelerator._dataloaders if isinstance(loader, ChunkLoader))  # noqa: SLF001
    return tuple(states)


def save_state(accelerator: Accelerator, folder: Path) -> None:
    """Write the state into a folder that is there; every rank comes here.

    Raises:
        StoreError: It cannot be written.
        StateError: A registered object's state is more than tensors and plain values.
    """
    try:
        with _bare_models(accelerator):
            accelerator.save_state(str(folder))
    except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
        raise StoreError(
            f"the checkpoint was not saved in {folder}: {error}; make room, or mend the folder"
        ) from error
    try:
        if accelerator.is_main_process:
            for path in sorted(folder.glob("custom_checkpoint_*.pkl")):
                read_plain(path)
    except CorruptError as error:
        raise StateError(
            "the state_dict of an object given to register_for_checkpointing could never be loaded: it may "
            f"hold tensors, arrays, numbers, strings, lists and dicts only ({error})"
        ) from error


def load_state(accelerator: Accelerator, folder: Path, checkpoint: Checkpoint) -> None:
    """Read the state from a folder; every rank comes here.

    Raises:
        CorruptError: A file holds more than tensors and plain values, or is missing.
        StateError: The state is not of what was prepared.
    """
    prepared = count_prepared(accelerator)
    for kind, count in prepared.items():
        if count > checkpoint.prepared.get(kind, 0):
            raise StateError(
                f"{checkpoint.label} holds {checkpoint.prepared.get(kind, 0)} {kind}, and {count} are here: "
                "prepare the same, in the same order, or begin without the checkpoint"
            )
    check_plans(folder)
    rank: int = accelerator.process_index
    if rank < checkpoint.processes:
        _check_random_states(folder, rank)  # what is wrong there Accelerate passes over in silence
    try:
        with tensors_only(), _bare_models(accelerator):
            accelerator.load_state(str(folder))
    except BenchKitError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, CheckpointException) as error:
        cause = str(error).rpartition("Traceback")[2]
        raise StateError(
            f"{checkpoint.label} does not fit what was prepared: {' '.join(cause.split())[-1000:]}; "
            "prepare the model and the optimizer that were saved, or begin without the checkpoint"
        ) from error
    if rank >= checkpoint.processes:
        set_seed(int.from_bytes(digest_key(f"{checkpoint.id}/{rank}".encode())[:_SEED_BYTES], "big"))
    accelerator.step = checkpoint.step


def _check_random_states(folder: Path, rank: int) -> None:
    path = folder / f"random_states_{rank}.pkl"
    if not path.is_file():
        raise CorruptError(f"{path} is missing: the random state of rank {rank}")
    read_plain(path)


@contextmanager
def _bare_models(accelerator: Accelerator) -> Iterator[None]:
    """Let Accelerate see the models themselves for a while, without what distributes or compiles them."""
    prepared = accelerator._models  # noqa: SLF001
    accelerator._models = [_bare(model) for model in prepared]  # noqa: SLF001
    try:
        yield
    finally:
        accelerator._models = prepared  # noqa: SLF001


def _bare(model: torch.nn.Module) -> torch.nn.Module:
    while True:
        inner = (
            model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", None)
        )
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner
