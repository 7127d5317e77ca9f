"""Ranks: what the processes of a run do together, so that an error of one is an error of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object

from benchkit.errors import BenchKitError

T = TypeVar("T")
Who = Literal["all", "machines", "main"]


def together(accelerator: Accelerator, action: Callable[[], T], *, by: Who = "all") -> list[T]:
    """Run an action on some ranks, wait for all of them, and return what each had as a result.

    Args:
        accelerator: Knows the ranks; all of them come here.
        action: What is run.
        by: By all ranks, by the first on each machine, or by the first of all.

    Returns:
        The results of those that ran it, in order of rank: rank 0 comes first.

    Raises:
        BenchKitError: The error of a rank, on every rank: otherwise the others would wait for it for ever.
    """
    chosen = {
        "all": True,
        "machines": accelerator.is_local_main_process,
        "main": accelerator.is_main_process,
    }[by]
    error: BenchKitError | None = None
    results: list[T] = []
    if chosen:
        try:
            results.append(action())
        except BenchKitError as caught:
            error = caught
    if accelerator.num_processes > 1:
        told = gather_object([(error, results)])
        results = [result for _, theirs in told for result in theirs]
        error = error or next((theirs for theirs, _ in told if theirs), None)
    if error:
        raise error
    return results
