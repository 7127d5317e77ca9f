"""The private corners of Accelerate that a loader touches: all of them, and only here.

Accelerate leaves a loader alone whose `_is_accelerate_prepared` is true, sets that name when `prepare` has
run, and reads `end_of_dataloader` and `remainder` of the loader that registered last with its gradient state.
Nothing here loads Accelerate before the user has: until then there is nothing to tell it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def accelerate_processes() -> int:
    """Return how many processes Accelerate's state knows of; 1 where there is no such state."""
    state = _shared_state("PartialState")
    return int(state.num_processes) if state is not None else 1


def place_on_device(batch: Any, *, non_blocking: bool) -> Any:
    """Return the batch on Accelerate's device."""
    from accelerate.utils import send_to_device  # noqa: PLC0415

    state = _shared_state("PartialState")
    if state is None:
        return batch
    return send_to_device(batch, state.device, non_blocking=non_blocking)


@contextmanager
def registered(loader: object) -> Iterator[None]:
    """Make the loader the one that Accelerate's gradient state looks at, for the length of a pass."""
    state = _shared_state("GradientState")
    if state is None:
        yield
        return
    state._add_dataloader(loader)  # noqa: SLF001
    try:
        yield
    finally:
        state._remove_dataloader(loader)  # noqa: SLF001


def _shared_state(name: str) -> Any:
    """Return Accelerate's singleton of that name if the user's script has made it, else None."""
    module = sys.modules.get("accelerate.state")
    cls = getattr(module, name, None)
    return cls() if cls is not None and cls._shared_state else None
