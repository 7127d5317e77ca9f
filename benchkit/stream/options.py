"""How a loader behaves: the shard it serves and the options it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from benchkit.errors import UsageError

Tail = Literal["pad", "drop"]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of every global batch that one process gets.

    Ranks that must see the same samples (tensor parallel groups) are given the same shard.

    Attributes:
        index: Which part, from 0.
        count: How many parts there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        check_counts(self, "shard ", count=1, index=0)
        if not 0 <= self.index < self.count:
            raise UsageError(f"shard index {self.index} is outside 0..{self.count - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """What `get_dataset` can be told about its loader.

    Attributes:
        shard: The part this process gets; None asks torch.distributed, then RANK and WORLD_SIZE, else all.
        tail: `pad` fills the last global batch with repeated samples (which `gather_for_metrics` drops),
            `drop` leaves an incomplete one out.
        collate_fn: Makes a batch of a list of rows; None is the chunk class's, or torch's `default_collate`.
        pin_memory: Batches are put into pinned memory, for faster copies to a GPU.
        prefetch_factor: Batches each worker prepares ahead.
        persistent_workers: Worker processes are kept from one pass to the next.
        timeout_seconds: The longest wait for a batch before the loader gives up.
        on_error: `raise` stops at a sample that cannot be decoded, `skip` leaves it out and counts it.
        max_errors: With `skip`, the most samples that are left out in one pass of one process.
    """

    shard: Shard | None = None
    tail: Tail = "pad"
    collate_fn: Callable[[list[Any]], Any] | None = None
    pin_memory: bool = False
    prefetch_factor: int = 2
    persistent_workers: bool = False
    timeout_seconds: float = 300.0
    on_error: OnError = "raise"
    max_errors: int = 100

    def __post_init__(self) -> None:
        if self.tail not in ("pad", "drop"):
            raise UsageError(f"tail is {self.tail!r}, not 'pad' or 'drop'")
        if self.on_error not in ("raise", "skip"):
            raise UsageError(f"on_error is {self.on_error!r}, not 'raise' or 'skip'")
        check_counts(self, prefetch_factor=1, max_errors=0)
        if not isinstance(self.timeout_seconds, int | float) or not self.timeout_seconds > 0:
            raise UsageError(f"timeout_seconds {self.timeout_seconds!r} is not a number of more than 0")


def check_count(name: str, value: Any, *, least: int) -> int:
    """Return a whole number as Python's own; NumPy's overflow, and go into no state.

    Args:
        name: What people call it.
        value: What they gave.
        least: The least it may be.

    Raises:
        UsageError: It is something else, or less.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} is {value!r}, not a whole number")
    if value < least:
        raise UsageError(f"{name} {value} is less than {least}")
    return int(value)


def check_counts(record: object, of: str = "", /, **least: int) -> None:
    """Make fields of a frozen record whole numbers of Python's own, each at least as large as is said here.

    Raises:
        UsageError: One is something else, or less.
    """
    for name, bound in least.items():
        object.__setattr__(record, name, check_count(f"{of}{name}", getattr(record, name), least=bound))
