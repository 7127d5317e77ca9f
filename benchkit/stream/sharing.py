"""Which processes share the samples of a dataset, and what the ranks of a training agree on."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import torch.distributed as dist

from benchkit.errors import StateError
from benchkit.settings import read_world
from benchkit.stream.accelerated import accelerate_processes
from benchkit.stream.options import Shard

_asked: Counter[str] = Counter()
_inherited = False
"""Whether the process group is that of the process that this one was forked from, and so are its sockets."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who shares the samples, as a training's process sees it; its workers by spawn see nothing of it.

    Attributes:
        processes: How many processes Accelerate runs.
        shard: This process's part: torch.distributed's, the environment's, or all.
    """

    processes: int
    shard: Shard


def look_around() -> Sharing:
    """Return who shares the samples of this process."""
    return Sharing(accelerate_processes(), _current_shard())


def resolve_shard(given: Shard | None, resolved: Shard | None) -> Shard:
    """Return this process's shard: the given one, torch.distributed's, the environment's, or all.

    Args:
        given: What the user asked for.
        resolved: What an earlier call returned; another answer now would lose samples.

    Raises:
        StateError: The answer has changed.
    """
    shard = given or _current_shard()
    if resolved is not None and shard != resolved:
        raise StateError(
            f"the loader began as shard {resolved.index} of {resolved.count} and is now {shard.index} of "
            f"{shard.count}: make the Accelerator (or init_process_group) before the first len() or pass"
        )
    return shard


def agree(question: str, answer: str) -> str:
    """Return what the first rank that asked this answered, so that all ranks go on with the same.

    No rank waits for another. What is asked again is another question: all are told what the first answered
    that asked so often.
    """
    if not dist.is_available() or not dist.is_initialized() or _inherited:
        return answer
    from torch.distributed import distributed_c10d  # noqa: PLC0415 - where there is no torch.distributed

    number, _asked[question] = _asked[question], _asked[question] + 1
    store = distributed_c10d._get_default_store()  # noqa: SLF001
    said: bytes = store.compare_set(f"benchkit/{question}/{number}", "", answer)
    return said.decode()


def _current_shard() -> Shard:
    if dist.is_available() and dist.is_initialized():
        return Shard(index=dist.get_rank(), count=dist.get_world_size())
    world = read_world()
    return Shard(index=world[0], count=world[1]) if world else Shard(index=0, count=1)


def _after_fork() -> None:
    global _inherited  # noqa: PLW0603
    _inherited = dist.is_available() and dist.is_initialized()


os.register_at_fork(after_in_child=_after_fork)
