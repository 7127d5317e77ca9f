"""One run for all ranks: the main process tells its id, the others ask for it, and nobody has to meet.

The id goes through the key-value store of `torch.distributed`. Telling never waits, so a script may begin its
run on the main process alone; asking waits until it has been told.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as dist

from benchkit.errors import StallError, UsageError
from benchkit.settings import read_world
from benchkit.train.run_record import is_run_id

ASKING_SECONDS = 300.0

_NUMBERS = count()


def next_number() -> int:
    """Return the number of a run: ranks that make runs in the same order mean the same one by it."""
    return next(_NUMBERS)


def is_main_process() -> bool:
    """Return whether this is rank 0, by `torch.distributed`, else by what the launcher said, else alone."""
    if dist.is_available() and dist.is_initialized():
        return bool(dist.get_rank() == 0)
    world = read_world()
    return world is None or world[0] == 0


def tell_run(number: int, run: str) -> bool:
    """Tell the other ranks the run's id; return whether there was a way to."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    _key_value_store().set(_key(number), run)
    return True


def ask_run(number: int, *, seconds: float = ASKING_SECONDS) -> str:
    """Return the run's id as the main process tells it.

    Raises:
        UsageError: The processes are not joined yet.
        StallError: The main process does not tell it in time.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise UsageError(
            "this process learns its run from the main process, and they are not joined yet: make the "
            "Accelerator, or call torch.distributed.init_process_group(), before you ask for a run's folder"
        )
    store = _key_value_store()
    try:
        store.wait([_key(number)], timedelta(seconds=seconds))
    except RuntimeError as error:
        raise StallError(
            f"the main process began no run within {seconds:g} seconds: call init_trackers, or make the "
            "ExperimentLogger, on every rank"
        ) from error
    run: str = store.get(_key(number)).decode("ascii", errors="replace")
    if not is_run_id(run):
        raise UsageError(f"the main process told {run!r:.60}, which is no id of a run")
    return run


def _key(number: int) -> str:
    return f"benchkit/run/{number}"


def _key_value_store() -> Any:
    # torch has no public name for it; it has been this one since 1.8.
    return dist.distributed_c10d._get_default_store()  # noqa: SLF001
